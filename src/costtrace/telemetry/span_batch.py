"""Sending one batch of records: what is left of it, and which records the receiver refuses.

A refused batch is halved until the refused records are alone. These are tried again a few times and then left out, so
that one bad record cannot hold up those after it. A record is left out only where the receiver took others of the same
batch: a receiver that refuses everything is set up wrongly, and waiting for it loses nothing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

from costtrace.telemetry.transport import Answer, Outcome

TRIES = 3
"""How often a record must be refused alone before it is left out."""
_REFUSALS = 128
"""After so many refusals and no acceptance, the receiver takes nothing."""


class Item(NamedTuple):
    """One record's spans."""

    record_id: str
    spans: list[ReadableSpan]


class Progress(Enum):
    """What to do after one export of a batch."""

    MORE = "more"
    PAUSE = "pause"
    """Only refused records are left: wait before trying them again."""
    AGAIN = "again"
    """The receiver does not answer, or is busy: send the same part later."""
    STUCK = "stuck"
    """The receiver takes nothing: read the batch again later, with what was booked since."""
    DONE = "done"


class SpanBatch:
    """Records in the ledger's order, up to usage id `last_id`."""

    def __init__(
        self, items: Sequence[Item], last_id: int, *, unsampled: int = 0, refused: dict[str, str] | None = None
    ) -> None:
        self.last_id = last_id
        self.unsampled = unsampled
        self.delivered = 0
        self.spans = 0
        """Spans that the receiver has taken, with those that it then rejected."""
        self.rejected = 0
        self.remark = ""
        """What the receiver said of what it took."""
        self.refused: dict[str, str] = refused or {}
        """Why records were left out, by record id."""
        self.reason = ""
        self.largest = len(items)
        """Most records that an export can hold, as far as the receiver has shown."""
        self._todo: deque[tuple[Sequence[Item], int]] = deque([(items, 0)] if items else [])
        self._refusals = 0
        self._rounds = 0
        """How often all records that are refused alone have been tried."""

    @property
    def done(self) -> bool:
        """Every record is delivered or left out."""
        return not self._todo

    def send_next(self, send: Callable[[Sequence[ReadableSpan]], Answer]) -> Progress:
        """Export the next part."""
        items, tries = self._todo[0]
        spans = [span for item in items for span in item.spans]
        answer = send(spans)
        self.reason = answer.reason
        if answer.outcome is Outcome.AGAIN:
            return Progress.AGAIN
        self._todo.popleft()
        if answer.outcome is Outcome.DELIVERED:
            self.delivered += len(items)
            self.spans += len(spans)
            self.rejected += answer.rejected
            self.remark = answer.reason or self.remark
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
