"""Sends the ledger's usage records as spans to an OTLP receiver, from a thread: a receiver that is down loses nothing.

The shipper reads ``usage`` behind its cursor, exports, and moves the cursor once the receiver has taken the batch. If
it is killed in between, it sends the batch again, with the same span ids. Each endpoint has a cursor; a receiver
without one gets the ledger from its beginning.
"""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from costtrace.core.errors import LedgerError
from costtrace.core.rows import EngineRow
from costtrace.core.units import NS_PER_S
from costtrace.ledger.store import Ledger
from costtrace.telemetry.ledger_rows import Page, engines, usage_after
from costtrace.telemetry.span_batch import Item, Progress, SpanBatch
from costtrace.telemetry.spans import SpanBuilder
from costtrace.telemetry.transport import Target, Transport

_log = logging.getLogger("costtrace.telemetry")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0


class Shipped(NamedTuple):
    """What became of records since this process began. `sent + unsampled + refused` is all that the cursor passed."""

    sent: int = 0
    unsampled: int = 0
    refused: int = 0
    failures: int = 0
    up: bool = True
    behind: int = 0
    """Usage rows behind the cursor: the receiver does not have them yet."""
    oldest_ns: int = 0
    """The wall ns at which the oldest of these ended; 0: there is none."""

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
        self._failures = 0
        self._wakes = 1
        self._drained_at = 0
        """The number of wakes at which the receiver had the whole ledger."""

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
            return self._drained_at != self._wakes and not self._failures
        if self._failures:
            self._ending.wait(wait_s)
        else:
            self._wake.wait(wait_s)
            self._wake.clear()
        return True

    def _send(self, ledger: Ledger) -> float:
        """Send the current batch, or read and send the next one. Returns how many seconds to wait after it."""
        if self._batch is None:
            self._batch = self._read(ledger)
        else:
            self._measure_backlog(ledger)
        if self._batch is None:
            return self._poll_s
        batch = self._batch
        while not batch.done:
            assert self._transport is not None
            progress = batch.send_next(self._transport.send)
            if progress in (Progress.AGAIN, Progress.STUCK):
                if progress is Progress.STUCK:
                    self._batch = None
                return self._fail(batch.reason)
            if batch.delivered:
                self._recover()
            if progress is Progress.PAUSE:
                self._ending.wait(FIRST_WAIT_S)
        self._commit(ledger, batch)
        return 0

    def _read(self, ledger: Ledger) -> SpanBatch | None:
        connection = ledger.connection
        wakes = self._wakes  # noted before the ledger is read: a wake during the read leads to another read
        if self._position is None:
            row = connection.execute("SELECT usage_id FROM cursor WHERE consumer = ?", (self._name,)).fetchone()
            self._position = row[0] if row else 0
        page = usage_after(connection, self._position, self._limit)
        if not page.last_id:
            # Ids start again where the ledger was emptied or restored from a backup.
            self._position = min(self._position, ledger.last_number("usage"))
            self.status = self.status._replace(behind=0, oldest_ns=0)
            self._drained_at = wakes
            return None
        if any(row.record.engine_id not in self._engines for row in page.rows):
            self._engines = engines(connection)
        if page.rows:
            self.status = self.status._replace(oldest_ns=page.rows[0].record.ended_ns)
        self._measure_backlog(ledger)
        return self._build(page)

    def _measure_backlog(self, ledger: Ledger) -> None:
        """Update how many rows the receiver does not have yet."""
        self.status = self.status._replace(behind=max(0, ledger.last_number("usage") - (self._position or 0)))

    def _build(self, page: Page) -> SpanBatch:
        items, unsampled, refused = [], 0, page.damaged
        for row in page.rows:
            record_id = row.record.record_id
            try:
                spans = self._builder.build(row.record, row.cost, self._engines.get(row.record.engine_id))
            except Exception as error:  # noqa: BLE001 one bad record must not stop those after it
                refused[record_id] = f"it cannot be made into spans: {error!r}"
                continue
            if spans:
                items.append(Item(record_id, spans))
            else:
                unsampled += 1
        return SpanBatch(items, page.last_id, unsampled=unsampled, refused=refused)

    def _commit(self, ledger: Ledger, batch: SpanBatch) -> None:
        """Move the cursor behind a batch that was sent. If that fails, only this is repeated: the batch is done."""
        messages = _refused_messages(batch.refused)
        with ledger.transaction():
            ledger.connection.execute(
                "INSERT INTO cursor VALUES (?,?,?) ON CONFLICT (consumer) DO UPDATE "
                "SET usage_id = excluded.usage_id, updated_ns = excluded.updated_ns",
                (self._name, batch.last_id, time.time_ns()),
            )
            for message in messages:
                ledger.notice("spans", message)
        for message in messages:
            _log.warning("%s", message)
        assert self._position is not None
        old = self.status
        self.status = old._replace(
            sent=old.sent + batch.delivered,
            unsampled=old.unsampled + batch.unsampled,
            refused=old.refused + len(batch.refused),
            behind=max(0, old.behind - (batch.last_id - self._position)),
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
