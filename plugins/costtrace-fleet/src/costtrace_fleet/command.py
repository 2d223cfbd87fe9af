"""``costtrace fleet``: the ledgers of many nodes in one ClickHouse."""

import sys
import time
from pathlib import Path

import click

from costtrace.cli.options import examples, home_option, out, password
from costtrace.config import load as config
from costtrace.core.errors import CosttraceError, LedgerError
from costtrace.ledger.reader import open_ledger
from costtrace_fleet.day_copy import copy_day
from costtrace_fleet.push import BATCH, Cursor, Pushed, push
from costtrace_fleet.schema import Layout, statements
from costtrace_fleet.schema import row_policies as tenants_only
from costtrace_fleet.store import ClickHouseStore, open_store

WAIT_S = 60


@click.group()
def fleet() -> None:
    """Keep the ledgers of many nodes in one ClickHouse. The reading commands take it by --store."""


@fleet.command(
    "ddl",
    epilog=examples(
        "costtrace fleet ddl | clickhouse-client --multiquery",
        "costtrace fleet ddl --cluster main --cold-days 90 --keep-days 2555 --row-policies",
    ),
)
@click.option("--cluster", default="", help="Name of a cluster: replicated and distributed tables, ON CLUSTER.")
@click.option("--database", default="costtrace", show_default=True)
@click.option(
    "--keep-days", type=click.IntRange(min=0), default=0, help="Drop rows after so many days.  [default: never]"
)
@click.option(
    "--cold-days", type=click.IntRange(min=0), default=0, help="Move rows to --cold-volume after so many days."
)
@click.option("--cold-volume", default="cold", show_default=True, help="A volume of the server's storage policy.")
@click.option("--row-policies", is_flag=True, help="Add roles and row policies: a tenant's user sees its rows only.")
def ddl(*, cluster: str, database: str, keep_days: int, cold_days: int, cold_volume: str, row_policies: bool) -> None:
    """Print the statements that make the store. Each can be run again."""
    for name in (cluster, database, cold_volume):
        if name and not (name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()):
            raise CosttraceError(f"{name!r} is no name: letters, digits, _ and -")
    layout = Layout(database, cluster, keep_days, cold_days, cold_volume)
    ddl_statements = [*statements(layout), *(tenants_only(layout) if row_policies else [])]
    out("".join(f"{statement};\n\n" for statement in ddl_statements))


@fleet.command("init")
@click.option("--store", "dsn", metavar="DSN", help="The store.  [default: the setting `store`]")
def init(dsn: str | None) -> None:
    """Make the tables on a single server (for a cluster: `fleet ddl --cluster`)."""
    where, secret = _where(dsn)
    with open_store(where, password=secret) as store:
        store.create(Layout())
    out("the tables are there\n")


@fleet.command(
    "push",
    epilog=examples(
        "costtrace fleet push --store clickhouse://costtrace@clickhouse:8123",
        "costtrace fleet push --follow       beside the agent, as a service",
    ),
)
@click.option("--store", "dsn", metavar="DSN", help="The store.  [default: the setting `store`]")
@click.option("--follow", is_flag=True, help=f"Go on: push every {WAIT_S} s, and wait out what fails.")
@click.option("--batch", type=click.IntRange(1, 1_000_000), default=BATCH, show_default=True, help="Rows an insert.")
@home_option
def push_command(*, dsn: str | None, follow: bool, batch: int, home: Path) -> None:
    """Send what is new in this node's ledger. A push that dies sends rows again; the store keeps each once."""
    where, secret = _where(dsn)
    while True:
        try:
            with open_store(where, password=secret) as store:
                _report(_push(home, store, batch))
        except LedgerError as error:
            if not follow:
                raise
            sys.stderr.write(f"costtrace: {error}. Next try in {WAIT_S} s.\n")
        if not follow:
            return
        time.sleep(WAIT_S)


def _push(home: Path, store: ClickHouseStore, batch: int) -> Pushed:
    with open_ledger(home) as ledger:
        return push(ledger, store, Cursor(home, store.where), batch=batch)


def _report(pushed: Pushed) -> None:
    out(
        f"sent {pushed.postings:,} postings, {pushed.usage_records:,} usage records, {pushed.meter_rows:,} meter rows\n"
    )


@fleet.command("copy", epilog=examples("costtrace fleet copy --day 2026-11-23 --out archive"))
@click.option("--store", "dsn", metavar="DSN", help="The store.  [default: the setting `store`]")
@click.option("--day", "words", required=True, help="A day of UTC that is over: 2026-11-23.")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder.")
def copy(*, dsn: str | None, words: str, folder: Path) -> None:
    """Write one day's rows as Parquet: the copy that an auditor can read without the store."""
    where, secret = _where(dsn)
    with open_store(where, password=secret) as store:
        for path, rows in copy_day(store, words, folder, time.time_ns()):
            out(f"{rows:,} rows in {path}\n")


def _where(dsn: str | None) -> tuple[str, str]:
    settings = config.load()
    where = dsn or settings.store
    if not where:
        raise CosttraceError("no store is set: give --store clickhouse://user@host:8123, or the setting `store`")
    return where, password(settings.store_password_file)
