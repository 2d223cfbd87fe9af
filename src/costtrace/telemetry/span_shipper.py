"""Sends the ledger's usage records as spans to an OTLP receiver, from a thread: a receiver that is down loses nothing.

The shipper reads ``usage`` behind its cursor, exports, and moves the cursor once the receiver has taken the batch. If
it is killed in between, it sends the batch again, with the same span ids. Each endpoint has a cursor; a receiver
without one gets the ledger from its beginning. A record that is refused while others are taken is passed by the cursor
and has one of its own, before it, until it is sent or given up (`held_records`).
"""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

from costtrace.core.errors import LedgerError
from costtrace.core.rows import EngineRow
from costtrace.core.units import NS_PER_S
from costtrace.ledger.store import Ledger
from costtrace.telemetry import span_cursor
from costtrace.telemetry.held_records import PROBE_S, HeldRecords
from costtrace.telemetry.ledger_rows import Page, engines, usage_after
from costtrace.telemetry.otel_environment import Target
from costtrace.telemetry.span_batch import Item, Progress, SpanBatch
from costtrace.telemetry.spans import SpanBuilder
from costtrace.telemetry.transport import Answer, Outcome, Transport, remark

_log = logging.getLogger("costtrace.telemetry")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
_PATIENCE = 5
"""How often a batch must fail as a whole before it is put aside."""


class Shipped(NamedTuple):
    """What became of records since this process began: all that the cursor passed but what is held."""

    sent: int = 0
    unsampled: int = 0
    refused: int = 0
    failures: int = 0
    up: bool = True
    behind: int = 0
    """Usage rows behind the cursor, or held: the receiver does not have them yet."""
    oldest_ns: int = 0
    """The wall ns at which the oldest of these ended; 0: there is none."""
    rejected: int = 0
    """Spans that the receiver has rejected of batches that it took: they are not sent again."""

    @property
    def delay_s(self) -> float:
        """Age of the oldest row that the receiver does not have yet."""
        return max(0.0, (time.time_ns() - self.oldest_ns) / NS_PER_S) if self.oldest_ns else 0.0


_MOST_NAMED = 10
"""How many refused records of a batch get a notice: a receiver that refuses a whole tenant must not fill the ledger."""


def _refused_messages(refused: dict[str, str]) -> list[str]:
    """Messages to an operator about records that were left out."""
    named = list(refused.items())[:_MOST_NAMED]
    messages = [f"record {record_id} was sent no span: {why}. The ledger has it." for record_id, why in named]
    if len(refused) > _MOST_NAMED:
        messages.append(f"{len(refused) - _MOST_NAMED} more records of the same batch were sent no span.")
    return messages


def consumer(target: Target) -> str:
    """Name of the cursor of a receiver. The endpoint is hashed, as it may hold a key."""
    return f"otlp:{blake2b(f'{target.protocol} {target.endpoint}'.encode(), digest_size=8).hexdigest()}"


class SpanShipper:
    """Ships spans of one ledger to one receiver until it is stopped."""

    def __init__(
        self,
        ledger: Path,
        builder: SpanBuilder,
        transport: Callable[[], Transport],
        name: str,
        *,
        batch: int = 512,
        poll_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = Shipped()
        self._path = ledger
        self._builder = builder
        self._open = transport
        self._name = name
        self._most = self._limit = batch
        self._poll_s = poll_s
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="costtrace-spans", daemon=True)
        self._transport: Transport | None = None
        self._engines = dict[str, EngineRow]()
        self._position: int | None = None
        self._batch: SpanBatch | None = None
        self._held = HeldRecords(clock)
        self._failures = 0
        self._warned = False
        """The last batch was not taken whole."""
        self._wakes = 1
        self._aside_at = -1
        self._read_at = self._drained_at = 0
        """The number of wakes at which the whole ledger was read, and at which the receiver had it."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Tell the shipper that the ledger has new rows; returns at once."""
        self._wakes += 1
        self._wake.set()

    def drained(self) -> bool:
        """Does the receiver have all that was in the ledger at the last `wake`? True where nothing can be sent."""
        return self._drained_at == self._wakes or not self._thread.is_alive()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Send what is left for at most `timeout_s`, then end. True if the receiver has all of it."""
        deadline = time.monotonic() + timeout_s
        self._ending.set()
        self._wake.set()
        if self.status.up:
            self._thread.join(timeout_s)
        if self._transport is not None:
            self._transport.close()
        self._thread.join(max(0.5, deadline - time.monotonic()))
        return self._drained_at == self._wakes

    def _run(self) -> None:
        try:
            ledger = Ledger(self._path, create=False)
        except LedgerError as error:
            _log.error("no spans will be sent: %s", error)
            self.status = self.status._replace(up=False)
            return
        try:
            self._transport = self._open()
            while self._next_round(ledger):
                pass
        except Exception:  # noqa: BLE001 the agent goes on without spans
            _log.exception("sending spans has ended by an error; they stay in the ledger")
            self.status = self.status._replace(up=False, failures=self.status.failures + 1)
        finally:
            ledger.close()

    def _next_round(self, ledger: Ledger) -> bool:
        """Send one batch, or wait. False: end."""
        try:
            wait_s = self._send(ledger)
        except sqlite3.Error as error:
            wait_s = self._fail(f"the ledger cannot be used: {error}")
        except Exception as error:  # noqa: BLE001 whatever it is, the next round may do better
            wait_s = self._fail(repr(error))
        if wait_s == 0:
            return True
        if self._ending.is_set():  # go on while there is something to send, and give up at the first failure
            return self._read_at != self._wakes and not self._failures and not self._held.crowded
        if self._failures:
            self._ending.wait(wait_s)
        else:
            self._wake.wait(wait_s)
            self._wake.clear()
        return True

    def _send(self, ledger: Ledger) -> float:
        """Send the current batch, or read and send the next one. Returns how many seconds to wait after it."""
        if self._batch is None:
            if failure := self._probe(ledger):
                return self._fail(failure)
            if self._held.crowded:
                return self._poll_s
            self._batch = self._read(ledger)
        else:
            self._measure_backlog(ledger)
        if self._batch is None:
            return self._poll_s
        batch = self._batch
        while not batch.done:
            progress = batch.send_next(self._export)
            if progress is Progress.AGAIN:
                return self._fail(batch.reason)
            if progress is Progress.STUCK and not self._put_aside():
                self._batch = None
                return self._fail(batch.reason)
        self._commit(ledger, batch)
        return 0

    def _put_aside(self) -> bool:
        """Whether to hold a batch of which nothing is taken and try the next: once until something is taken."""
        if self._failures < _PATIENCE or self._aside_at == self._held.taken:
            return False
        self._aside_at = self._held.taken
        return True

    def _export(self, spans: Sequence[ReadableSpan]) -> Answer:
        assert self._transport is not None
        answer = self._transport.send(spans)
        if answer.outcome is Outcome.DELIVERED:
            self._held.taken += 1
            self._recover()
        return answer

    def _probe(self, ledger: Ledger) -> str:
        """Send again what was refused. Returns why the receiver cannot be used; "" where it can."""
        probed = self._held.probe(self._export)
        if probed.ended:
            old = self.status
            self.status = old._replace(
                sent=old.sent + probed.sent,
                refused=old.refused + len(probed.refused),
                rejected=old.rejected + probed.rejected,
            )
            span_cursor.note(ledger, self._name, _refused_messages(probed.refused), released=probed.ended)
        return probed.failure

    def _resume(self, ledger: Ledger) -> None:
        """Hold what the process before this one held."""
        items: list[Item] = []
        held = span_cursor.held(ledger, self._name)
        for usage_id in held:
            page = usage_after(ledger.connection, usage_id - 1, 1)
            items += self._items(ledger, page)[0] if page.last_id == usage_id else []
        gone = set(held) - {item.usage_id for item in items}
        if gone:
            span_cursor.note(ledger, self._name, released=gone)
        self._held.hold([items] if items else [])

    def _read(self, ledger: Ledger) -> SpanBatch | None:
        connection = ledger.connection
        wakes = self._wakes  # noted before the ledger is read: a wake during the read leads to another read
        if self._position is None:
            self._resume(ledger)
            self._position = span_cursor.position(ledger, self._name)
        page = usage_after(connection, self._position, self._limit)
        if not page.last_id:
            # Ids start again where the ledger was emptied or restored from a backup.
            self._position = min(self._position, ledger.last_number("usage"))
            self.status = self.status._replace(behind=len(self._held), oldest_ns=self._held.oldest_ns)
            self._read_at = wakes
            self._drained_at = wakes if not len(self._held) else self._drained_at
            return None
        if page.rows:
            oldest_ns = self._held.oldest_ns or page.rows[0].record.ended_ns
            self.status = self.status._replace(oldest_ns=min(oldest_ns, page.rows[0].record.ended_ns))
        self._measure_backlog(ledger)
        items, unsampled, refused = self._items(ledger, page)
        return SpanBatch(items, page.last_id, unsampled=unsampled, refused=refused)

    def _measure_backlog(self, ledger: Ledger) -> None:
        """Update how many rows the receiver does not have yet."""
        behind = max(0, ledger.last_number("usage") - (self._position or 0))
        self.status = self.status._replace(behind=behind + len(self._held))

    def _items(self, ledger: Ledger, page: Page) -> tuple[list[Item], int, dict[str, str]]:
        """The records of a page with their spans, how many have none, and why others cannot have any."""
        if any(row.record.engine_id not in self._engines for row in page.rows):
            self._engines = engines(ledger.connection)
        items, unsampled, refused = [], 0, page.damaged
        for row in page.rows:
            record_id = row.record.record_id
            try:
                spans = self._builder.build(row.record, row.cost, self._engines.get(row.record.engine_id))
            except Exception as error:  # noqa: BLE001 one bad record must not stop those after it
                refused[record_id] = f"it cannot be made into spans: {error!r}"
                continue
            if spans:
                items.append(Item(record_id, spans, row.usage_id))
            else:
                unsampled += 1
        return items, unsampled, refused

    def _commit(self, ledger: Ledger, batch: SpanBatch) -> None:
        """Move the cursor behind a batch that was sent. If that fails, only this is repeated: the batch is done."""
        messages = _refused_messages(batch.refused)
        warning = remark(f"of {batch.spans} spans of a batch", batch.rejected, batch.remark)
        if batch.rejected and not self._warned:  # once, and not for each batch of a receiver that rejects some of all
            messages.append(warning)
        elif warning and not self._warned:
            _log.warning("%s", warning)
        suspects = [item.usage_id for part in batch.suspects for item in part]
        span_cursor.note(ledger, self._name, messages, moved=batch.last_id, held=suspects)
        if suspects and batch.delivered and not len(self._held):
            _log.warning(
                "records that the receiver refuses while it takes others: %d (%s). They are sent again; what it still "
                "refuses alone after %d minutes is left out and named.",
                len(suspects),
                batch.reason,
                PROBE_S // 60,
            )
        self._held.hold(batch.suspects)
        if batch.delivered:
            self._warned = bool(warning)
        assert self._position is not None
        old = self.status
        self.status = old._replace(
            sent=old.sent + batch.delivered,
            unsampled=old.unsampled + batch.unsampled,
            refused=old.refused + len(batch.refused),
            behind=max(0, old.behind - (batch.last_id - self._position) + len(suspects)),
            rejected=old.rejected + batch.rejected,
        )
        self._position = batch.last_id
        self._batch = None
        self._limit = min(batch.largest * 2, self._most) if batch.largest else self._limit

    def _fail(self, reason: str) -> float:
        """Count a failure and log the first. Returns how many seconds to wait."""
        if self.status.up:
            _log.warning("spans cannot be sent: %s. They stay in the ledger and are sent once it takes them.", reason)
        self.status = self.status._replace(up=False, failures=self.status.failures + 1)
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return wait_s * random.uniform(0.5, 1)  # noqa: S311 jitter, not a secret

    def _recover(self) -> None:
        if not self.status.up:
            _log.warning("spans are being sent again")
        self.status = self.status._replace(up=True)
        self._failures = 0
