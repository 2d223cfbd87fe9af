"""``costtrace requests``: single requests, with the reasons of their cost; with their parts on several engines."""

import time
from contextlib import ExitStack
from datetime import tzinfo
from pathlib import Path
from typing import NamedTuple

import click

from costtrace.cli.options import (
    examples,
    format_option,
    name_period,
    open_store,
    out,
    period,
    period_options,
    store_option,
    zone,
)
from costtrace.config import load as config
from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_S
from costtrace.ledger.queries import ORDERS
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.ledger.wholes import find_wholes, parts_of, whole_habits, whole_requests
from costtrace.pricing.carbon_file import stated_intensity
from costtrace.reports.output.render import render
from costtrace.reports.output.tables import brief
from costtrace.reports.requests.joined import join
from costtrace.reports.requests.joined_query import find_parts, parts
from costtrace.reports.requests.joined_tables import parts_table, wholes_table
from costtrace.reports.requests.tables import detail_table, list_table
from costtrace.reports.requests.why import usual

PEERS = 500_000
"""How many of the newest requests the medians are of: some 100 MB of memory."""


class Asked(NamedTuple):
    """What was asked for beside `--id`: filter, order, limit, period."""

    only: Filter
    order: str
    limit: int
    since: str | None
    until: str | None


@click.command(
    short_help="Single requests; the most expensive, and why.",
    epilog=examples(
        "costtrace requests --since 1h                     the newest",
        "costtrace requests --dearest --since today        what cost most, and why",
        "costtrace requests --sort queue --tenant acme     who waited longest",
        "costtrace requests --id chatcmpl-8f31c0           one request (its id, record id or trace id)",
        "costtrace requests --joined --also /mnt/node2     whole requests, their parts joined over two nodes",
    ),
)
@click.option("--dearest", is_flag=True, help="The most expensive first, with the reason in words: --sort cost --why.")
@click.option("--sort", type=click.Choice(list(ORDERS)), help="The most of it first.  [default: ended]")
@click.option("--why", "explain", is_flag=True, help="Say why each cost what it did, against its tenant and model.")
@click.option("--id", "identifier", help="Only this one: request id, record id, request key or trace id.")
@click.option("--joined", is_flag=True, help="One line a request, with the roles and attempts of its parts.")
@click.option(
    "--also",
    type=click.Path(path_type=Path),
    multiple=True,
    help="With --joined, another node's home with parts; --limit is then of each.",
)
@click.option("--tenant", help="Only this tenant's requests.")
@click.option("--model", help="Only this model.")
@click.option("--engine", help="Only this engine.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@period_options
@format_option
@store_option
def requests(
    *,
    dearest: bool,
    sort: str | None,
    explain: bool,
    identifier: str | None,
    joined: bool,
    also: tuple[Path, ...],
    tenant: str | None,
    model: str | None,
    engine: str | None,
    limit: int,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
) -> None:
    """List requests with what they used and cost: the newest, the most expensive, one tenant's, or a single one.

    A request counts in the period in which it ended. Costs are without idle. After a re-rating the new cost
    is shown beside the first one. With the setting `carbon_intensity` each has an estimate of its CO2e.
    """
    where = zone(tz)
    order = sort or ("cost" if dearest else "ended")
    asked = Asked(Filter(tenant, model, engine), order, limit, since, until)
    if joined or also:
        out(_joined(home, also, asked, identifier, where, form))
        return
    with open_store(home) as store:
        which = period(store, since, until, where)
        if identifier is not None:
            rows = find_wholes(store, identifier, limit)
            if not rows:
                raise unknown_request(identifier)
        else:
            rows = whole_requests(store, which, asked.only, order, limit)
        in_full = identifier is not None and form == "table"
        single = (
            [part for row in rows for part in (parts_of(store, row) if row.parts > 1 else [row])] if in_full else []
        )
        wanted = [(request.tenant, request.model) for request in rows]
        peers = usual(whole_habits(store, which, PEERS), wanted) if dearest or explain or identifier else None
    what = f"Request {brief(identifier)}" if identifier else "The most expensive requests" if dearest else "Requests"
    if not rows and form == "table":
        out(f"no request ended {name_period(which, where)}\n")
        return
    carbon = stated_intensity()
    table = list_table(rows, peers, f"{what}, {name_period(which, where)}", where, carbon)
    details = [detail_table(part, where, carbon) for part in single]
    out(render([table, *details], form))


def _joined(home: Path, also: tuple[Path, ...], asked: Asked, identifier: str | None, where: tzinfo, form: str) -> str:
    """The requests with all their parts, of the store that `open_store` opens and of the ledgers under *also*.

    A period without limits is that of the first. Raises: CosttraceError.
    """
    wait_ns = config.load({"home": home}).parts_wait_s * NS_PER_S
    with ExitStack() as stack:
        stores: list[Store] = [stack.enter_context(open_store(home))]
        stores += [stack.enter_context(open_ledger(other)) for other in also]
        which = period(stores[0], asked.since, asked.until, where)
        if identifier is None:
            recorded = parts(stores, which, asked.only, asked.order, asked.limit)
        else:
            recorded = find_parts(stores, identifier, asked.limit)
    if not recorded and identifier is not None:
        raise unknown_request(identifier)
    if not recorded and form == "table":
        return f"no request ended {name_period(which, where)}\n"
    wholes = join(recorded, time.time_ns(), wait_ns)
    title = f"Whole requests, {name_period(which, where)}"
    details = [parts_table(whole, where) for whole in wholes] if identifier is not None else []
    return render([wholes_table(wholes, title, where), *details], form)


def unknown_request(identifier: str) -> CosttraceError:
    """The error for a request that the ledger does not have."""
    return CosttraceError(f"no request {brief(identifier)!r} is in the ledger; it appears there when it has ended")
