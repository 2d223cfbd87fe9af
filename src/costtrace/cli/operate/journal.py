"""``costtrace journal``: what an engine recorded, for a person to read."""

import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from costtrace.cli.options import examples, home_option, out, zone
from costtrace.core.clock import Anchor
from costtrace.core.errors import CosttraceError
from costtrace.core.events import DeviceSeen, Event
from costtrace.journal.printer import JournalPrinter
from costtrace.journal.reader import JournalReader
from costtrace.journal.writer import segments_in
from costtrace.reports.output.render import clean, render
from costtrace.reports.output.tables import Column, Table, count, text

POLL_S = 0.2
_JSON_NAMES: dict[type[Event], str] = {DeviceSeen: "Sensed"}
"""Events whose name in ``--json`` is not that of their class: what users parse stays."""


@click.group(short_help="What an engine recorded, line by line.")
def journal() -> None:
    """Read the journals: what each engine recorded, before any accounting."""


@journal.command("list", epilog=examples("costtrace journal list"))
@home_option
def list_journals(home: Path) -> None:
    """List the journals that are there, the newest last."""
    columns: tuple[Column[Path], ...] = (
        text("engine", lambda directory: directory.name),
        text("state", _state),
        count("segments", lambda directory: len(_segments(directory))),
        count("bytes", lambda directory: sum(segment.stat().st_size for segment in _segments(directory))),
    )
    title = f"Journals in {clean(str(home / 'journal'))}"
    out(render([Table("journals", title, columns, _directories(home))], "table"))


def _state(directory: Path) -> str:
    try:
        return "ended" if JournalReader(directory).writer_gone() else "running"
    except CosttraceError:  # another one's must not end the list
        return "unknown"


def _segments(directory: Path) -> list[Path]:
    try:
        return list(segments_in(directory).values())
    except OSError:
        return []


@journal.command(
    epilog=examples(
        "costtrace journal show                      the newest journal",
        "costtrace journal show vllm-19b2 --all      every step, of the journal whose name begins so",
        "costtrace journal show --follow --limit 20  the last 20 lines, then what comes",
        "costtrace journal show --json | jq .        each event as an object",
    )
)
@click.argument("engine", required=False)
@click.option("--follow", "-f", is_flag=True, help="Continue with what is being written, until the engine ends.")
@click.option("--limit", type=click.IntRange(min=0), help="Only the last LIMIT lines of what is there.")
@click.option("--all", "everything", is_flag=True, help="Steady steps and heartbeats one by one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per event, as recorded (monotonic ns).")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the times.")
@home_option
def show(
    *, engine: str | None, follow: bool, limit: int | None, everything: bool, as_json: bool, tz: str, home: Path
) -> None:
    """Show a journal, one line per event, with wall time.

    ENGINE is a journal's name, the beginning of it, or its directory; without it the newest is shown. Steps in which no
    sequence joins or leaves are counted on one line. #7 is the sequence in slot 7. Prompts and outputs are never in
    a journal.
    """
    reader = JournalReader(_directory_of(home, engine))
    printer = JournalPrinter(Anchor(0, 0), everything=everything, zone=zone(tz))
    lines = _objects(reader) if as_json else _lines(reader, printer)
    for line in lines if limit is None else deque(lines, maxlen=limit):
        out(line)
    while follow:
        gone = reader.writer_gone() and not reader.may_live()
        new_lines = list(_objects(reader) if as_json else _lines(reader, printer))
        for line in new_lines:
            out(line)
        sys.stdout.flush()
        if gone and not new_lines:
            break
        time.sleep(POLL_S)
    reader.close()


def _batches(reader: JournalReader) -> Iterator[Sequence[Event]]:
    while events := reader.read().events:
        yield events


def _lines(reader: JournalReader, printer: JournalPrinter) -> Iterator[str]:
    for events in _batches(reader):
        if reader.header is not None:
            printer.anchor = Anchor(reader.header.monotonic_ns, reader.header.wall_ns)
        yield from _line_ends(printer.lines(events))
    yield from _line_ends(printer.pause())


def _objects(reader: JournalReader) -> Iterator[str]:
    for events in _batches(reader):
        for event in events:
            fields = {name: getattr(event, name) for name in event.__struct_fields__}
            plain = msgspec.to_builtins({"event": _JSON_NAMES.get(type(event), type(event).__name__), **fields})
            yield json.dumps(plain).replace("\x7f", "\\u007f") + "\n"


def _line_ends(lines: Iterable[str]) -> Iterator[str]:
    return (f"{clean(line).rstrip()}\n" for line in lines)


def _directories(home: Path) -> list[Path]:
    """All journals, the oldest first. Raises: CosttraceError."""
    try:
        directories = [path for path in (home / "journal").iterdir() if path.is_dir()]
        return sorted(directories, key=lambda path: path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise CosttraceError(
            f"there is no journal under {home}. Has an engine run with the plugin and this COSTTRACE_HOME? "
            "`costtrace doctor` shows which home is used and why."
        ) from None
    except OSError as error:
        raise CosttraceError(
            f"cannot read {home / 'journal'}: {error.strerror}. Run this as the engine's user."
        ) from error


def _directory_of(home: Path, engine: str | None) -> Path:
    if engine is not None and "/" in engine:
        if not Path(engine).is_dir():
            raise CosttraceError(f"there is no journal directory {engine}")
        return Path(engine)
    directories = _directories(home)
    matching = [path for path in directories if engine is None or path.name.startswith(engine)]
    exact = [path for path in matching if path.name == engine]
    if exact or (engine is None and matching):
        return (exact or matching)[-1]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(path.name for path in (matching or directories)) or "none"
    what = f"several journals begin with {engine!r}" if matching else f"no journal begins with {engine!r}"
    raise CosttraceError(f"{what} under {home / 'journal'}; there are: {known}")
