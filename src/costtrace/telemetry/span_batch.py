"""Sending one batch of records: what is left of it, and which records the receiver refuses.

A refused batch is halved until the refused records are alone. These, and what is left once a receiver takes nothing
more, are suspects: refused now, which may be an outage (`held_records`). A receiver that has taken nothing of a batch
is waited for with the whole of it.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

from costtrace.telemetry.transport import Answer, Outcome

SILENCE = 24
"""After so many refusals in a row the receiver takes nothing: one bad record of 512 is found in ten."""


class Item(NamedTuple):
    """One record's spans."""

    record_id: str
    spans: list[ReadableSpan]
    usage_id: int = 0


class Progress(Enum):
    """What to do after one export of a batch."""

    MORE = "more"
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
        """Why records are left out, by record id."""
        self.suspects: list[Sequence[Item]] = []
        """What the receiver refuses, or would."""
        self.reason = ""
        """Why the last part was not taken that was not."""
        self.largest = len(items)
        """Most records that an export can hold, as far as the receiver has shown."""
        self._todo: list[Sequence[Item]] = [items] if items else []
        self._silent = 0
        self._small = False

    @property
    def done(self) -> bool:
        """Every record is delivered, left out or suspected."""
        return not self._todo

    def send_next(self, send: Callable[[Sequence[ReadableSpan]], Answer]) -> Progress:
        """Export the next part."""
        # The largest part gets round many bad records in a row, the smallest between scattered ones: in turn.
        items = (min if self._small else max)(self._todo, key=len)
        spans = [span for item in items for span in item.spans]
        answer = send(spans)
        self.reason = self.reason if answer.outcome is Outcome.DELIVERED else answer.reason
        if answer.outcome is Outcome.AGAIN:
            return Progress.AGAIN
        self._todo.remove(items)
        self._small = not self._small
        if answer.outcome is Outcome.DELIVERED:
            self.delivered += len(items)
            self.spans += len(spans)
            self.rejected += answer.rejected
            self.remark = answer.reason or self.remark
            self._silent = 0
        else:
            self._refuse(items, answer)
        if self._silent >= SILENCE:
            self.suspects += self._todo
            self._todo.clear()
        if self._todo:
            return Progress.MORE
        return Progress.STUCK if self.suspects and not self.delivered else Progress.DONE

    def _refuse(self, items: Sequence[Item], answer: Answer) -> None:
        middle = len(items) // 2
        if answer.outcome is Outcome.REFUSED or (middle == 0 and answer.outcome is Outcome.TOO_BIG):
            self._silent += 1
        if middle:
            if answer.outcome is Outcome.TOO_BIG:
                self.largest = min(self.largest, middle)
            self._todo += (items[:middle], items[middle:])
        elif answer.outcome is Outcome.UNSENDABLE:
            self.refused[items[0].record_id] = answer.reason
        else:
            self.suspects.append(items)
