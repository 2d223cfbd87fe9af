"""``costtrace requests --joined``: requests with all their parts, out of the ledgers of one or several nodes."""

import time
from contextlib import ExitStack
from datetime import tzinfo
from pathlib import Path
from typing import NamedTuple

from costtrace.cli.options import name_period, open_books, period
from costtrace.config import load as config
from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_S
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.reports.output.render import render
from costtrace.reports.requests.joined import join
from costtrace.reports.requests.joined_query import find_parts, parts
from costtrace.reports.requests.joined_tables import parts_table, wholes_table


class Chosen(NamedTuple):
    """Which requests."""

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
    """What is printed: of the books that `open_books` opens, and of the ledgers under *also*. Raises: CosttraceError.

    A period without limits is that of the first.
    """
    wait_ns = config.load({"home": home}).parts_wait_s * NS_PER_S
    with ExitStack() as stack:
        stores: list[Store] = [stack.enter_context(open_books(home))]
        stores += [stack.enter_context(open_ledger(other)) for other in also]
        which = period(stores[0], *limits, where)
        if chosen.identifier is None:
            found = parts(stores, which, chosen.only, chosen.order, chosen.limit)
        else:
            found = find_parts(stores, chosen.identifier, chosen.limit)
    if not found and chosen.identifier is not None:
        raise CosttraceError(f"no request {chosen.identifier!r} is in the ledger; it appears there when it has ended")
    if not found and form == "table":
        return f"no request ended {name_period(which, where)}\n"
    wholes = join(found, time.time_ns(), wait_ns)
    tables = [wholes_table(wholes, f"Whole requests, {name_period(which, where)}", where)]
    if chosen.identifier is not None:
        tables += [parts_table(whole, where) for whole in wholes]
    return render(tables, form)
