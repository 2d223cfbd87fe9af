"""The screen of `costtrace top`: lines drawn with rich, keys read from the terminal. It needs no mouse and no colour.

The chosen row is in reverse and has a ``>``: on a terminal without reverse video the mark still shows it.
"""

import codecs
import os
import select
import signal
import sys
import termios
import textwrap
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import tzinfo
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from costtrace.core.errors import LedgerError
from costtrace.core.units import show_amount, show_seconds
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.ledger.wholes import whole_requests
from costtrace.reports.output.render import clean
from costtrace.reports.output.tables import Row
from costtrace.reports.requests.explain import as_text
from costtrace.reports.requests.explain_query import explained
from costtrace_ui.live.figures import Snapshot
from costtrace_ui.live.query import read_snapshot
from costtrace_ui.live.views import VIEWS, Field, View, headlines, widths
from costtrace_ui.top.state import State

REQUESTS = 200
PEERS = 20_000
"""How many of the newest requests the medians of an explanation are over: it takes a fraction of a second."""
TICK_S = 0.5
"""How often the screen is drawn again, for a changed terminal size."""
ESCAPE_S = 0.05
"""How long after an escape the rest of a key's sequence may arrive: over ssh it can come in two pieces."""
_PHASES = (("prefill", "prefill_ns"), ("decode", "decode_ns"), ("wasted", "wasted_ns"))
_KEYS = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "pgup", "\x1b[6~": "pgdn",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end",
    "\x1b[Z": "backtab", "\x1b": "esc", "\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace",
    "\x08": "backspace", "\x03": "ctrl-c", "\x04": "eof",
}  # fmt: skip


def draw(state: State, snapshot: Snapshot, size: tuple[int, int], now_ns: int, zone: tzinfo) -> list[Text]:
    """The lines of the screen, at most as many and as wide as *size* (columns, lines)."""
    columns, lines = size
    tabs = "  ".join(
        f"[{number} {view.name}]" if number == state.view + 1 else f"{number} {view.name}"
        for number, view in enumerate(VIEWS, 1)
    )
    heads = [Text(_fit(clean(line), columns)) for line in headlines(snapshot, now_ns, zone)]
    top = [Text(_fit(tabs, columns), "bold"), *heads]
    body_lines = max(1, lines - len(top) - 2)
    if state.text:
        body = [
            Text(_fit(clean(line), columns))
            for line in _wrapped(state.text, columns)[state.scroll : state.scroll + body_lines]
        ]
    else:
        body = _table(state, snapshot, columns, body_lines)
    blank = [Text("")] * max(0, body_lines - len(body))
    return [
        *top,
        Text(_fit(_marks(state), columns), "bold"),
        *body[:body_lines],
        *blank,
        Text(_fit(_footer(state), columns), "reverse"),
    ][:lines]


def _footer(state: State) -> str:
    if state.typing:
        return f"/{state.words.get(state.now.name, '')}_   enter keeps it, escape drops it"
    if state.text:
        return "up and down to read on, any other key goes back"
    if state.message:
        return state.message
    return "q quit  s sort  r turn  / filter  f freeze  +- time  e explain  ? help"


def _marks(state: State) -> str:
    """Which filters are on, and whether the screen is frozen."""
    marks = ["FROZEN"] if state.frozen else []
    if words := state.words.get(state.now.name):
        marks.append(f"with {words!r}")
    if not state.now.filters and state.now.name != "devices":
        marks += [f"{key} = {value}" for key, value in state.chosen.items()]
    return clean("  ".join(marks) + ("   (escape shows all)" if marks != ["FROZEN"] and marks else ""))


def _wrapped(lines: Sequence[str], columns: int) -> list[str]:
    """Lines wrapped to the screen's width, with their indentation."""
    wrapped: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        wrapped += textwrap.wrap(clean(line), max(20, columns), subsequent_indent=indent) or [""]
    return wrapped


def _table(state: State, snapshot: Snapshot, columns: int, body_lines: int) -> list[Text]:
    placed = widths(state.now.fields, columns)
    shown = [field for field, _ in placed]
    rows = state.rows(snapshot, shown)
    state.cursor = max(0, min(state.cursor, len(rows) - 1))
    by, backwards = state.sorted_by(shown)
    heads = [f"{field.heading}{(' ^' if backwards else ' v') if field is by else ''}" for field in shown]
    lines = [Text(_fit("  " + _line(heads, placed), columns), "bold underline")]
    first = max(0, state.cursor - (body_lines - 2) + 1)
    for number, row in enumerate(rows[first : first + body_lines - 1], first):
        chosen = number == state.cursor
        cells = [clean(field.show(row)) for field in shown]
        line = Text(_fit(("> " if chosen else "  ") + _line(cells, placed), columns))
        line.stylize("reverse" if chosen else "dim" if row["kind"] != "request" else "")
        lines.append(line)
    if not rows:
        message = (
            "nothing has these words in its name" if state.words.get(state.now.name) else "nothing in this stretch"
        )
        lines += [Text(""), Text(_fit(f"  {message}", columns))]
    return lines


def _line(cells: Sequence[str], placed: Sequence[tuple[Field, int]]) -> str:
    parts = []
    for cell, (field, width) in zip(cells, placed, strict=True):
        fitted = _fit(cell, width)
        parts.append(" " * (width - cell_len(fitted)) + fitted if field.right else set_cell_size(fitted, width))
    return "  ".join(parts)


def _fit(text: str, width: int) -> str:
    """*text* in at most *width* cells; what is cut off leaves a ``~``."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 1)).rstrip() + "~"


def explain_row(store: Store, view: View, row: Row, snapshot: Snapshot, bar: str) -> list[str]:
    """Why the request of a row cost what it did; of a group's row, its most expensive request that ended."""
    request = str(row.get("record_id", ""))
    if not request and view.filters and row["kind"] == "request":
        costliest = whole_requests(store, snapshot.period, as_filter({view.filters: str(row["name"])}), "cost", 1)
        request = costliest[0].record_id if costliest else ""
    if not request:
        return ["No request that ended in this stretch is behind this row."]
    parts = explained(store, request, Period(0, max(snapshot.period.until_ns, 1)), PEERS)
    if parts:
        return "\n".join(as_text(part, bar) for part in parts).splitlines()
    return [
        f"Request {request} runs still: its reasons are known when it has ended.",
        "",
        f"  Up to the last closed window: GPU time {show_seconds(_whole(row, 'gpu_ns'))}",
        f"    {', '.join(f'{name} {show_seconds(_whole(row, key))}' for name, key in _PHASES)}",
        f"  Cost so far, without idle: {show_amount(_known(row, 'cost_nano'), str(row['currency']) or None)}",
        f"  Tenant {row['tenant']}, model {row['model']}, engine {row['engine_id']}",
    ]


def _known(row: Row, key: str) -> int | None:
    value = row.get(key)
    return value if isinstance(value, int) else None


def _whole(row: Row, key: str) -> int:
    return _known(row, key) or 0


def as_filter(chosen: Mapping[str, str]) -> Filter:
    """The chosen fields of requests, as the ledger's queries take them."""
    return Filter(chosen.get("tenant"), chosen.get("model"), chosen.get("engine_id"))


class Keyboard:
    """Keys of a terminal, by name."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def read(self, timeout_s: float) -> list[str]:
        """The keys that were pressed within *timeout_s*; ``eof`` where the terminal is gone."""
        if not self._has_input(timeout_s):
            return []
        text = self._take()
        while text.rpartition("\x1b")[2] in {"", "[", "O", *"123456"} and "\x1b" in text and self._has_input(ESCAPE_S):
            text += self._take()
        return list(split_keys(text)) or ["eof"] * (not text)

    def _has_input(self, timeout_s: float) -> bool:
        return bool(select.select([self._descriptor], [], [], timeout_s)[0])

    def _take(self) -> str:
        try:
            data = os.read(self._descriptor, 256)
        except OSError:
            data = b""
        return self._decoder.decode(data) if data else "\x04"


def split_keys(text: str) -> Iterator[str]:
    """Names of the keys that a terminal sent; unknown sequences are skipped."""
    start = 0
    while start < len(text):
        end = start + 1
        if text[start] == "\x1b" and text[start + 1 : start + 2] in {"[", "O"}:
            end = start + 2
            while end < len(text) and not text[end].isalpha() and text[end] != "~":
                end += 1
            end += 1
        key = text[start:end]
        start = end
        if key in _KEYS:
            yield _KEYS[key]
        elif len(key) == 1 and key.isprintable():
            yield key


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Raw mode: keys arrive one by one, without echo. Restores the terminal at the end, also after SIGTERM."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        # Keep output processing: a newline still returns to the left edge.
        mode = termios.tcgetattr(descriptor)
        mode[1] |= termios.OPOST
        termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
        yield
    finally:
        with suppress(termios.error):  # the terminal can be gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run(home: Path, *, over_ns: int, every_s: float, view: str, zone: tzinfo) -> None:
    """Show the screen until q is pressed. Raises: LedgerError, where the ledger cannot be read at the start."""
    state = State(over_ns, [each.name for each in VIEWS].index(view))
    bar = "#" if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8" else "\u2588"
    console = Console(highlight=False)
    keyboard = Keyboard(sys.stdin.fileno())
    with open_ledger(home) as store:
        snapshot = read_snapshot(store, state.over_ns, REQUESTS)
    with _raw(sys.stdin.fileno()), Live(console=console, screen=True, auto_refresh=False) as live:
        due_s = time.monotonic() + every_s
        while True:
            live.update(
                Group(*draw(state, snapshot, (console.width, console.height), time.time_ns(), zone)), refresh=True
            )
            for key in keyboard.read(min(TICK_S, max(0.0, due_s - time.monotonic()))):
                shown = [field for field, _ in widths(state.now.fields, console.width)]
                action = state.press(key, state.rows(snapshot, shown), shown)
                if action == "quit":
                    return
                if action == "explain":
                    _explain(home, state, snapshot, shown, bar)
                if action == "read":
                    snapshot = read_again(home, state, snapshot)
            if time.monotonic() >= due_s:
                snapshot = snapshot if state.frozen else read_again(home, state, snapshot)
                due_s = time.monotonic() + every_s


def read_again(home: Path, state: State, before: Snapshot) -> Snapshot:
    """The ledger's figures now, of the same period where the screen is frozen; *before* where it cannot be read."""
    period = before.period if state.frozen else None
    try:
        with open_ledger(home) as store:
            return read_snapshot(store, state.over_ns, REQUESTS, as_filter(state.chosen), period)
    except LedgerError as error:
        state.message = str(error)
        return before


def _explain(home: Path, state: State, snapshot: Snapshot, shown: Sequence[Field], bar: str) -> None:
    row = state.rows(snapshot, shown)[state.cursor]
    try:
        with open_ledger(home) as store:
            state.text, state.scroll = explain_row(store, state.now, row, snapshot, bar), 0
    except LedgerError as error:
        state.message = str(error)
