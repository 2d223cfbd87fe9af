"""What the commands share: where the state is, which period, how to print."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
from click.core import ParameterSource

from costtrace.cli.distributions import fleet_store
from costtrace.cli.time_words import parse
from costtrace.config import load as config
from costtrace.core.errors import CosttraceError
from costtrace.core.wall_time import moment, show_time
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import bounds
from costtrace.ledger.reader import Store, open_ledger
from costtrace.reports.output.render import FORMATS


def examples(*lines: str) -> str:
    """Lines for the end of a command's help, shown as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class Context:
    """What the group passes to its commands."""

    debug: bool = False


Function = Callable[..., Any]


def home_option(function: Function) -> Function:
    """``--home``: the directory of ledger and journals."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        callback=_home,
        help="Directory of ledger and journals.  [default: COSTTRACE_HOME, else ~/.local/state/costtrace]",
    )(function)


def _home(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
    del ctx, parameter
    return config.home() if value is None else value


def store_option(function: Function) -> Function:
    """``--home`` and ``--store``: which store a command reads; `open_store` opens it."""
    return home_option(
        click.option(
            "--store",
            metavar="DSN",
            expose_value=False,
            callback=_store,
            help="A fleet store: clickhouse://user@host:8123.  [default: the setting `store`, unless --home is given]",
        )(function)
    )


def _store(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    del parameter
    ctx.meta[_STORE] = value


_STORE = "costtrace.store"


@contextmanager
def open_store(home: Path) -> Iterator[Store]:
    """The store that `store_option` names: the fleet store, else the ledger under *home*. Raises: CosttraceError."""
    ctx = click.get_current_context()
    settings = config.load()
    dsn = ctx.meta.get(_STORE)
    if dsn is None and ctx.get_parameter_source("home") is ParameterSource.DEFAULT:
        dsn = settings.store
    if not dsn:
        with open_ledger(home) as ledger:
            yield ledger
        return
    with fleet_store()(dsn, password=password(settings.store_password_file)) as store:
        yield store


def password(path: Path | None) -> str:
    """The first line of a file; '' without one. Raises: CosttraceError."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CosttraceError(f"cannot read the password file {path}: {error}") from error


def format_option(function: Function) -> Function:
    """``--format``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="For people, programs or spreadsheets. json and csv hold exact integers with the unit in the name.",
    )(function)


def period_options(function: Function) -> Function:
    """``--since``, ``--until``, ``--tz``."""
    for option in (
        click.option("--tz", default="UTC", show_default=True, help="Time zone of dates, hours and days."),
        click.option("--until", help="End, not included: as --since.  [default: now]"),
        click.option("--since", help="Begin: 2026-11-23, 2026-11-23T14:30, 2h, 7d, today, yesterday.  [default: all]"),
    ):
        function = option(function)
    return function


def zone(name: str) -> tzinfo:
    """Time zone by name. Raises: CosttraceError."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CosttraceError(
            f"there is no time zone {name!r} on this machine: use a name like Europe/Berlin (`pip install tzdata` "
            "where the system has none), or UTC"
        ) from None


def period(store: Store, since: str | None, until: str | None, where: tzinfo) -> Period:
    """The period that was asked for; without limits, all that the ledger holds. Raises: CosttraceError."""
    now_ns = time.time_ns()
    whole = bounds(store) or Period(0, now_ns)
    asked = Period(
        whole.since_ns if since is None else parse(since, now_ns, where),
        max(whole.until_ns, now_ns) if until is None else parse(until, now_ns, where),
    )
    if asked.since_ns >= asked.until_ns:
        raise CosttraceError(
            f"the period is empty: it would begin {show_time(asked.since_ns, where)} and end "
            f"{show_time(asked.until_ns, where)}. Give a --since that is before --until."
        )
    return asked


def name_period(period: Period, where: tzinfo) -> str:
    """A period, for headings."""
    begin, end = (moment(ns, where).strftime("%Y-%m-%d %H:%M:%S") for ns in period)
    return f"{begin} to {end} {where.tzname(None) or where}"


class ReaderGoneError(Exception):
    """The reader of our output (`| head`) has closed it."""


def out(text: str) -> None:
    """Print *text* as it is, without a line end of its own. Raises: ReaderGoneError."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # click would turn it into an exit code that differs between its versions.
        raise ReaderGoneError from None
