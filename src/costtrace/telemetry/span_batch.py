"""One batch on its way: what is left to send, and which records the receiver does not want.

A refused batch is halved until the records that it is about stand alone; these are tried again a few times and then
left out, so that one bad record cannot hold up all that come after it. But a record is left out only where the
receiver took others of the same batch: a receiver that refuses everything is set up wrongly, and waiting loses nothing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

from costtrace.telemetry.transport import Answer, Outcome

TRIES = 3
"""How often a record is refused on its own before it is left out."""
_REFUSALS = 128
"""So many refusals without a single acceptance mean that the receiver takes nothing."""


class Item(NamedTuple):
    """One record's spans."""

    record_id: str
    spans: list[ReadableSpan]


class Progress(Enum):
    """Where a batch stands after one export."""

    MORE = "more"
    PAUSE = "pause"
    """Only refused records are left: wait before they are tried again."""
    AGAIN = "again"
    STUCK = "stuck"
    """The receiver takes nothing: read the batch anew later, with what has come since."""
    DONE = "done"


class SpanBatch:
    """Records in the order of the ledger, up to `last_id`."""

    def __init__(
        self, items: Sequence[Item], last_id: int, *, unsampled: int = 0, refused: dict[str, str] | None = None
    ) -> None:
        self.last_id = last_id
        self.unsampled = unsampled
        self.delivered = 0
        self.refused: dict[str, str] = refused or {}
        """Records that are left out, and why."""
        self.reason = ""
        self.largest = len(items)
        """Size of the largest part that was not too big."""
        self._todo: deque[tuple[Sequence[Item], int]] = deque([(items, 0)] if items else [])
        self._refusals = 0
        self._rounds = 0
        """How often the records that are refused on their own have all been tried."""

    @property
    def done(self) -> bool:
        """Every record is delivered or left out."""
        return not self._todo

    def send_next(self, send: Callable[[Sequence[ReadableSpan]], Answer]) -> Progress:
        """Export the next part of it."""
        items, tries = self._todo[0]
        answer = send([span for item in items for span in item.spans])
        self.reason = answer.reason
        if answer.outcome is Outcome.AGAIN:
            return Progress.AGAIN
        self._todo.popleft()
        if answer.outcome is Outcome.DELIVERED:
            self.delivered += len(items)
        else:
            self._refuse(items, tries + 1, answer)
        return self._progress()

    def _refuse(self, items: Sequence[Item], tries: int, answer: Answer) -> None:
        if len(items) > 1:
            middle = len(items) // 2
            if answer.outcome is Outcome.TOO_BIG:
                self.largest = min(self.largest, middle)
            else:
                self._refusals += 1
            self._todo += [(items[:middle], 0), (items[middle:], 0)]
        elif tries < TRIES:
            self._todo.append((items, tries))
        else:
            self.refused[items[0].record_id] = f"its receiver refuses it ({answer.reason})"

    def _progress(self) -> Progress:
        if not self._todo:
            return Progress.DONE
        only_refused = all(tries for _, tries in self._todo)
        if not self.delivered and (only_refused or self._refusals >= _REFUSALS):
            return Progress.STUCK
        if only_refused and self._todo[0][1] > self._rounds:
            self._rounds = self._todo[0][1]
            return Progress.PAUSE
        return Progress.MORE
