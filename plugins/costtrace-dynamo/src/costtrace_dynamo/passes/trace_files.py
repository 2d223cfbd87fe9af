"""Reads the traces that NVIDIA Dynamo writes: of its workers' forward passes, and of its frontend's requests.

    DYN_FPM_TRACE=1 DYN_FPM_MODE=full DYN_FPM_OUTPUT_PATH=...                         on the workers
    DYN_REQUEST_TRACE=1 DYN_REQUEST_TRACE_SINKS=file DYN_REQUEST_TRACE_FILE_PATH=...   on the frontend

Files of JSON lines, compressed or not. A line that is cut off or damaged is left out and counted. Only numbers, ids and
times are read from a record: no prompt, and no hash of one.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_MS, NS_PER_S
from costtrace_dynamo.passes.forward_passes import ForwardPass, ServedRequest

PASS_SCHEMA, REQUEST_SCHEMA = "dynamo.fpm.trace.v1", "dynamo.request.trace.v1"
PASS_VERSION = 1
LARGEST = 2**63
"""Above every number (and every time in ns) of a record that can be."""
GZIP = b"\x1f\x8b"

T = TypeVar("T")


class TraceRecords(NamedTuple, Generic[T]):
    """What was in the files."""

    records: list[T]
    damaged: int
    """Lines that could not be read: the last one, where a file is still being written, or lines that lack a field."""


def read_passes(paths: Iterable[Path]) -> TraceRecords[ForwardPass]:
    """All forward passes in *paths*. Raises: CosttraceError (no file; another schema or version; sampled passes)."""
    return _read(paths, PASS_SCHEMA, _pass)


def read_served(paths: Iterable[Path]) -> TraceRecords[ServedRequest]:
    """All ended requests in *paths*, the frontend's records. Raises: CosttraceError (no file; another schema)."""
    return _read(paths, REQUEST_SCHEMA, _served)


def _read(paths: Iterable[Path], schema: str, make: Callable[[dict[str, Any]], T | None]) -> TraceRecords[T]:
    records: list[T] = []
    damaged = 0
    for path in paths:
        for line in _lines(path):
            try:
                event = json.loads(line, parse_float=Decimal)["event"]
                if event["schema"] != schema:
                    raise CosttraceError(f"{path} holds {event['schema']!r}, not {schema!r}")
                record = make(event)
            except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
                damaged += 1
                continue
            if record is not None:
                records.append(record)
    return TraceRecords(records, damaged)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, as far as they can be read: a compressed file that is still being written has no end."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == GZIP
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as stream:
            try:
                yield from stream
            except (EOFError, zlib.error, gzip.BadGzipFile):
                return
    except OSError as error:
        raise CosttraceError(f"cannot read {path}: {error}") from error


def _pass(event: dict[str, Any]) -> ForwardPass:
    metrics, scheduled = event["fpm"], event["fpm"]["scheduled_requests"]
    version = metrics["version"]
    if version != PASS_VERSION:
        raise CosttraceError(f"forward-pass metrics of version {version!r} are not known, only {PASS_VERSION}")
    if event["capture_mode"] != "full":
        raise CosttraceError("the trace has samples only: set DYN_FPM_MODE=full on the workers")
    return ForwardPass(
        worker=str(metrics["worker_id"]),
        rank=_whole(metrics["dp_rank"]),
        counter=_whole(metrics["counter_id"]),
        ended_ns=_whole(event["observed_at_unix_ms"], NS_PER_MS),
        wall_ns=_ns(metrics["wall_time"], NS_PER_S),
        prefills=_whole(scheduled["num_prefill_requests"]),
        prefill_tokens=_whole(scheduled["sum_prefill_tokens"]),
        decodes=_whole(scheduled["num_decode_requests"]),
    )


def _served(event: dict[str, Any]) -> ServedRequest | None:
    """The request that ended; None for another event. Dynamo 1.4.2 records neither its workers nor its first token."""
    if event["event_type"] != "request_end":
        return None
    request = event["request"]
    received_ns = _whole(request["request_received_ms"], NS_PER_MS)
    ended_ns = _whole(event["event_time_unix_ms"], NS_PER_MS)
    first, total = request.get("ttft_ms"), request.get("total_time_ms")
    workers = request.get("worker") or {}
    prefill, decode = workers.get("prefill_worker_id"), workers.get("decode_worker_id")
    cached = request.get("cached_tokens")
    prompt = request.get("input_tokens", (request.get("replay") or {}).get("input_length", 0))
    return ServedRequest(
        request_id=str(request["request_id"]),
        received_ns=received_ns,
        first_token_ns=None if first is None else received_ns + _ns(first, NS_PER_MS),
        ended_ns=ended_ns if total is None else received_ns + _ns(total, NS_PER_MS),
        input_tokens=_whole(prompt or 0),
        cached_tokens=None if cached is None else _whole(cached),
        output_tokens=_whole(request.get("output_tokens") or 0),
        prefill_worker=_name(prefill, decode),
        decode_worker=_name(decode, prefill),
    )


def _name(worker: object, other_stage: object) -> str:
    """A worker's id. A request that had only one worker has it in both stages."""
    name = worker if worker is not None else other_stage
    return "" if name is None else str(name)


def _whole(value: Decimal | int | str, unit_ns: int = 1) -> int:
    """A whole number from 0 up, or so many units in nanoseconds. Raises: InvalidOperation."""
    return int(_number(value, unit_ns)) * unit_ns


def _ns(value: Decimal | int | str, unit_ns: int) -> int:
    """Nanoseconds of a number of units, rounded to the nearest. Raises: InvalidOperation (not a number)."""
    return int((_number(value, unit_ns) * unit_ns).to_integral_value())


def _number(value: Decimal | int | str, unit: int) -> Decimal:
    number = Decimal("NaN") if isinstance(value, bool) else Decimal(value)
    if not number.is_finite() or not 0 <= number < LARGEST // unit:
        raise InvalidOperation(f"{value} is no number that can be")
    return number
