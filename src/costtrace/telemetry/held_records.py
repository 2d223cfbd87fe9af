"""Records that a receiver has refused while it took others: the fault may be theirs, or that of an outage.

What was refused is sent again, soon and then every half minute, in halves until each record is alone. A record is given
up only after it has been refused alone for `PROBE_S`, and `CONTRASTS` times with something else taken since the time
before: in an outage nothing is taken. While nothing is, one part is tried a round: the receiver is not pestered.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan

from costtrace.telemetry.span_batch import Item
from costtrace.telemetry.transport import Answer, Outcome

PROBE_S = 300.0
CONTRASTS = 3
MOST = 2_048
"""With so many records held, no more are read from the ledger than it takes to have something to compare with."""
_A_ROUND = 64
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(eq=False)
class _Part:
    items: Sequence[Item]
    since_s: float
    due_s: float
    taken: int
    """What the receiver had taken when it refused this the last time."""
    wait_s: float = _FIRST_WAIT_S
    contrasts: int = 0


@dataclass
class Probed:
    """What came of one round."""

    ended: list[int] = field(default_factory=list)
    """Usage ids that are sent, or given up."""
    sent: int = 0
    rejected: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """Why records were given up, by record id."""
    failure: str = ""
    """Why the receiver cannot be used; "": it can."""


class HeldRecords:
    """The records of one receiver. `taken` counts its exports that were taken, of any record."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.taken = 0
        self._clock = clock
        self._parts: list[_Part] = []

    def __len__(self) -> int:
        return sum(len(part.items) for part in self._parts)

    @property
    def crowded(self) -> bool:
        """There are so many that they have to be tried before others are read."""
        return len(self) >= MOST and any(part.taken < self.taken for part in self._parts)

    @property
    def oldest_ns(self) -> int:
        """The wall ns at which the oldest ended; 0: none is held."""
        return min((item.spans[0].end_time or 0 for part in self._parts for item in part.items), default=0)

    def hold(self, parts: Iterable[Sequence[Item]]) -> None:
        """Add what was just refused."""
        now_s = self._clock()
        self._parts += [_Part(items, now_s, now_s + _FIRST_WAIT_S, self.taken) for items in parts]

    def probe(self, send: Callable[[Sequence[ReadableSpan]], Answer]) -> Probed:
        """Send what is due, the largest parts first."""
        now_s, done, asked = self._clock(), Probed(), False
        for _ in range(_A_ROUND):
            due = [each for each in self._parts if each.due_s <= now_s and (each.taken < self.taken or not asked)]
            if not due:
                break
            part = max(due, key=lambda each: len(each.items))
            contrast = part.taken < self.taken
            asked = asked or not contrast
            answer = send([span for item in part.items for span in item.spans])
            if answer.outcome is Outcome.AGAIN:
                done.failure = answer.reason
                break
            self._parts.remove(part)
            if answer.outcome is Outcome.DELIVERED:
                done.sent += len(part.items)
                done.rejected += answer.rejected
                done.ended += [item.usage_id for item in part.items]
            else:
                self._refuse(part, answer, now_s, done, contrast=contrast)
        return done

    def _refuse(self, part: _Part, answer: Answer, now_s: float, done: Probed, *, contrast: bool) -> None:
        wait_s = min(_LONGEST_WAIT_S, 2 * part.wait_s)
        if len(part.items) > 1:
            middle = len(part.items) // 2
            due_s = now_s if contrast else now_s + wait_s
            for items in (part.items[:middle], part.items[middle:]):
                self._parts.append(_Part(items, now_s, due_s, self.taken, part.wait_s if contrast else wait_s))
            return
        contrasts = part.contrasts + contrast
        lasting = contrast and contrasts >= CONTRASTS and now_s - part.since_s >= PROBE_S
        if lasting or answer.outcome is Outcome.UNSENDABLE:
            done.refused[part.items[0].record_id] = f"its receiver refuses it ({answer.reason})"
            done.ended.append(part.items[0].usage_id)
        else:
            self._parts.append(_Part(part.items, part.since_s, now_s + wait_s, self.taken, wait_s, contrasts))
