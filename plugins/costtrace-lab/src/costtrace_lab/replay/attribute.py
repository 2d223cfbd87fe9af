"""Attribute whole journals by one method, without an agent, with the same pure functions; sum by tenant and kind."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.errors import CosttraceError
from costtrace.core.events import SENSORS, Reading, SegmentHeader
from costtrace.core.rows import Rows, UsageRecord
from costtrace.journal.reader import JournalReader
from costtrace.journal.writer import SEGMENT_SUFFIX
from costtrace.ledger.booking import Booking, BookingState
from costtrace.pricing.price_book import PriceBook

EVERYTHING_NS = 1 << 62
EVENTS_PER_TURN = 20_000
Progress = Callable[[int], None]
"""Called with the number of events (or requests) done so far."""


class Total:
    """The sums of one line of the comparison."""

    def __init__(self) -> None:
        self.requests = self.input_tokens = self.output_tokens = 0
        self.gpu_ns = 0
        self.cost_nano: int | None = 0
        """None: a part of it or all is unknown."""

    def post(self, gpu_ns: int, cost_nano: int | None) -> None:
        """Add a posting's device time and cost."""
        self.gpu_ns += gpu_ns
        if gpu_ns:
            self.cost_nano = None if self.cost_nano is None or cost_nano is None else self.cost_nano + cost_nano

    def end(self, record: UsageRecord) -> None:
        """Add a part of a request that ended: each request and token counts once."""
        counts = record.counts()
        self.requests += counts.requests
        self.input_tokens += counts.input_tokens
        self.output_tokens += counts.output_tokens


class Bill(NamedTuple):
    """All lines of one method: ``(tenant, kind)`` -> total; kind is ``request``, ``idle``, ..."""

    method: str
    lines: dict[tuple[str, str], Total]
    request_ns: dict[str, int]
    """Device time (ns) by record id."""
    currency: str
    simulated: bool
    warnings: tuple[str, ...]


def journals_below(path: Path) -> list[Path]:
    """The journals at *path*: one journal, or those of a home or its ``journal`` directory; empty for another path."""
    if not path.is_dir():
        return []
    if any(path.glob(f"*{SEGMENT_SUFFIX}")):
        return [path]
    root = path / "journal" if (path / "journal").is_dir() else path
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and any(entry.glob(f"*{SEGMENT_SUFFIX}")))


def bill(journals: Sequence[Path], policy: Policy, window_ns: int, book: PriceBook | None, progress: Progress) -> Bill:
    """Attribute and rate *journals*. Raises: CosttraceError, JournalError."""
    pipeline = Pipeline(policy, window_ns)
    warnings: list[str] = []
    booking = Booking(book, BookingState(), lambda _, message: warnings.append(message))
    lines: dict[tuple[str, str], Total] = {}
    request_ns: dict[str, int] = {}
    simulated = False
    currency = ""
    for rows in _rows(pipeline, journals, progress):
        booking.know(pipeline.all_engine_rows())
        booked = booking.rate(rows)
        for posting, charge in booked.postings:
            line = lines.setdefault((posting.tenant, posting.kind), Total())
            line.post(posting.gpu_ns, charge.cost_nano)
        for record, cost in booked.records:
            lines.setdefault((record.tenant, "request"), Total()).end(record)
            request_ns[record.record_id] = record.gpu_ns
            simulated = simulated or record.simulated
            currency = currency or cost.currency
    if not any(kind == "request" for _, kind in lines):
        raise CosttraceError("no request is in what was read: there is nothing to compare")
    distinct_warnings = tuple(dict.fromkeys(message for message in warnings if book is not None))
    return Bill(policy.method, lines, request_ns, currency, simulated, distinct_warnings)


def _rows(pipeline: Pipeline, journals: Iterable[Path], progress: Progress) -> Iterable[Rows]:
    readers: dict[str, JournalReader] = {}
    for path in journals:
        reader = JournalReader(path)
        if path.name.startswith(f"{SENSORS}-"):
            _read_sensors(pipeline, reader)
        else:
            readers[path.name] = reader
    count = 0
    while readers:
        for name, reader in list(readers.items()):
            events = reader.read(EVENTS_PER_TURN).events
            for event in events:
                if isinstance(event, SegmentHeader):
                    pipeline.add(name, event)
                if name in pipeline.engines:
                    pipeline.take(name, event)
            count += len(events)
            if not events:
                if name in pipeline.engines:
                    pipeline.end(name)
                reader.close()
                del readers[name]
        for boot_id in sorted({engine.header.boot_id for engine in pipeline.engines.values()}):
            pipeline.sweep(EVERYTHING_NS, boot_id)
        progress(count)
        yield pipeline.take_rows()


def _read_sensors(pipeline: Pipeline, reader: JournalReader) -> None:
    while events := reader.read(EVENTS_PER_TURN).events:
        boot_id = reader.header.boot_id if reader.header is not None else ""
        for event in events:
            if isinstance(event, Reading):
                pipeline.reading(boot_id, event)
    reader.close()
