"""The state of `costtrace top`'s screen, and what each key does to it. Knows no terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from costtrace.core.units import NS_PER_HOUR, NS_PER_S
from costtrace.reports.output.tables import Row
from costtrace_ui.live.figures import Snapshot, arranged
from costtrace_ui.live.views import VIEWS, Field, View

STRETCHES_NS = (60 * NS_PER_S, 300 * NS_PER_S, 900 * NS_PER_S, NS_PER_HOUR, 6 * NS_PER_HOUR, 24 * NS_PER_HOUR)
"""The lengths of time that + and - step through."""
HELP = (
    "1 to 6        a view: tenants, models, engines, devices, running and ended requests",
    "tab           the next view",
    "up, down      choose a row (also k and j; page up, page down, home, end)",
    "s, r          sort by the next column; the other way round",
    "/             show only rows with these words; enter keeps them, escape drops them",
    "f             freeze: nothing is read until f again",
    "+, -          a longer, a shorter stretch of time",
    "enter         the requests behind a row; of a request, why it cost what it did",
    "e             explain: this request, or the most expensive one behind this row",
    "escape        back",
    "q             end",
    "",
    "cost/s and out tok/s are means over the stretch in the first line, of the windows that have closed.",
    "J/tok and batch are of the requests that ended in it.  > more is unpriced  ? unknown, which is not 0",
)
PAGE = 10
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -PAGE, "pgdn": PAGE, "home": -(10**9), "end": 10**9}


@dataclass
class State:
    """The screen's state. `press` changes it and returns what the loop has to do."""

    over_ns: int
    view: int = 0
    cursor: int = 0
    words: dict[str, str] = field(default_factory=dict)
    """The words that rows are filtered by, by view."""
    order: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """The key that rows are sorted by, and whether backwards, by view."""
    chosen: dict[str, str] = field(default_factory=dict)
    """Fields and values that requests must have: set by enter on a row."""
    typing: bool = False
    frozen: bool = False
    text: Sequence[str] = ()
    """Lines of an explanation or the help, in place of the table."""
    scroll: int = 0
    message: str = ""

    @property
    def now(self) -> View:
        """The view on the screen."""
        return VIEWS[self.view]

    def sorted_by(self, shown: Sequence[Field]) -> tuple[Field, bool]:
        """The field that rows are sorted by, and whether backwards. The default: cost, the most expensive on top."""
        name, backwards = self.order.get(self.now.name, ("", False))
        preferred = [candidate for candidate in shown if candidate.key == name] or [
            candidate for candidate in shown if candidate.key == "cost_nano"
        ]
        return (preferred or list(shown))[0], backwards

    def rows(self, snapshot: Snapshot, shown: Sequence[Field]) -> list[Row]:
        """The rows of the view, filtered and sorted."""
        by, backwards = self.sorted_by(shown)
        rows = self.now.rows(snapshot)
        if not self.now.filters:
            rows = [row for row in rows if all(row.get(key, value) == value for key, value in self.chosen.items())]
        return arranged(rows, by.key, backwards=backwards, words=self.words.get(self.now.name, ""))

    def press(self, key: str, rows: Sequence[Row], shown: Sequence[Field]) -> str:
        """Apply *key*. Returns the action for the loop: ``quit``, ``read``, ``explain`` or ''."""
        self.message = ""
        if self.typing:
            self._type(key)
            return ""
        if self.text:
            return self._read_on(key)
        if key in _MOVES:
            self.cursor = max(0, min(len(rows) - 1, self.cursor + _MOVES[key]))
        elif key in {"s", "r"}:
            self._sort(key, shown)
        elif key == "enter":
            return self._enter(rows)
        elif key == "e":
            return "explain" if rows else ""
        elif key in {"q", "ctrl-c", "eof"}:
            return "quit"
        else:
            return self._switch(key)
        return ""

    def _switch(self, key: str) -> str:
        if key in {"+", "=", "-"}:
            return self._stretch(longer=key != "-")
        if key in {"tab", "backtab"}:
            self._show((self.view + (1 if key == "tab" else -1)) % len(VIEWS))
        elif key.isdecimal() and 1 <= int(key) <= len(VIEWS):
            self._show(int(key) - 1)
        elif key == "/":
            self.typing = True
        elif key == "f":
            self.frozen = not self.frozen
            return "" if self.frozen else "read"
        elif key == "esc":
            self.words.pop(self.now.name, None)
            if self.chosen:
                self.chosen = {}
                return "read"
        elif key in {"?", "h"}:
            self.text, self.scroll = HELP, 0
        return ""

    def _show(self, view: int) -> None:
        self.view, self.cursor = view, 0

    def _type(self, key: str) -> None:
        name = self.now.name
        so_far = self.words.get(name, "")
        if key in {"enter", "ctrl-c", "eof"}:
            self.typing = False
        elif key == "esc":
            self.typing = False
            self.words.pop(name, None)
        elif key == "backspace":
            self.words[name] = so_far[:-1]
        elif len(key) == 1 and key.isprintable():
            self.words[name] = so_far + key
        self.cursor = 0

    def _read_on(self, key: str) -> str:
        if key in _MOVES:
            self.scroll = max(0, min(len(self.text) - 1, self.scroll + _MOVES[key]))
        elif key in {"ctrl-c", "eof"}:
            return "quit"
        else:
            self.text = ()
        return ""

    def _sort(self, key: str, shown: Sequence[Field]) -> None:
        by, backwards = self.sorted_by(shown)
        if key == "s":
            keys = [column.key for column in shown]
            self.order[self.now.name] = (keys[(keys.index(by.key) + 1) % len(keys)], False)
        else:
            self.order[self.now.name] = (by.key, not backwards)

    def _stretch(self, *, longer: bool) -> str:
        others = [ns for ns in STRETCHES_NS if (ns > self.over_ns if longer else ns < self.over_ns)]
        if not others:
            return ""
        self.over_ns = others[0] if longer else others[-1]
        self.frozen = False
        return "read"

    def _enter(self, rows: Sequence[Row]) -> str:
        if not rows:
            return ""
        if not self.now.filters:
            return "explain" if "record_id" in rows[self.cursor] else ""
        row = rows[self.cursor]
        if row["kind"] != "request":
            self.message = "no request is behind this row: it is time without requests"
            return ""
        self.chosen = {self.now.filters: str(row["name"])}
        self._show([view.name for view in VIEWS].index("ended"))
        return "read"
