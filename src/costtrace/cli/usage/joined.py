"""``costtrace requests --joined``: requests with all their parts, out of the ledgers of one or several nodes."""

import time
from contextlib import ExitStack
from datetime import tzinfo
from pathlib import Path
from typing import NamedTuple

from costtrace.cli.options import name_period, open_store, period
from costtrace.config import load as config
from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_S
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.reports.output.render import render
from costtrace.reports.requests.joined import join
from costtrace.reports.requests.joined_query import find_parts, parts
from costtrace.reports.requests.joined_tables import parts_table, wholes_table


class Chosen(NamedTuple):
    """Which requests were asked for."""

    only: Filter
    order: str
    limit: int
    identifier: str | None


def joined_requests(
    home: Path,
    also: tuple[Path, ...],
    chosen: Chosen,
    limits: tuple[str | None, str | None],
    where: tzinfo,
    form: str,
) -> str:
    """What is printed of the store that `open_store` opens and of the ledgers under *also*. Raises: CosttraceError.

    A period without limits is that of the first.
    """
    wait_ns = config.load({"home": home}).parts_wait_s * NS_PER_S
    with ExitStack() as stack:
        stores: list[Store] = [stack.enter_context(open_store(home))]
        stores += [stack.enter_context(open_ledger(other)) for other in also]
        which = period(stores[0], *limits, where)
        if chosen.identifier is None:
            recorded = parts(stores, which, chosen.only, chosen.order, chosen.limit)
        else:
            recorded = find_parts(stores, chosen.identifier, chosen.limit)
    if not recorded and chosen.identifier is not None:
        raise CosttraceError(f"no request {chosen.identifier!r} is in the ledger; it appears there when it has ended")
    if not recorded and form == "table":
        return f"no request ended {name_period(which, where)}\n"
    wholes = join(recorded, time.time_ns(), wait_ns)
    title = f"Whole requests, {name_period(which, where)}"
    details = [parts_table(whole, where) for whole in wholes] if chosen.identifier is not None else []
    return render([wholes_table(wholes, title, where), *details], form)
