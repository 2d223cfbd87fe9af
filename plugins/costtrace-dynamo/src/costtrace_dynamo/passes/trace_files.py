"""Reads what NVIDIA Dynamo writes about itself: its forward-pass trace, and the frontend's records of requests.

    DYN_FPM_TRACE=1 DYN_FPM_MODE=full DYN_FPM_OUTPUT_PATH=...                         on the workers
    DYN_REQUEST_TRACE=1 DYN_REQUEST_TRACE_SINKS=file DYN_REQUEST_TRACE_FILE_PATH=...   on the frontend

Files of JSON lines, compressed or not; a line that a process was cut off in is left out, and counted. Only numbers, ids
and times are read of a record: no prompt, and no hash of one.
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
from costtrace_dynamo.passes.forward_passes import Pass, Served

PASS_SCHEMA, REQUEST_SCHEMA = "dynamo.fpm.trace.v1", "dynamo.request.trace.v1"
PASS_VERSION = 1
GZIP = b"\x1f\x8b"

T = TypeVar("T")


class Found(NamedTuple, Generic[T]):
    """What was in the files."""

    records: list[T]
    damaged: int
    """Lines that are none, or lack what is needed: torn at the end of a file that is still written."""


def read_passes(paths: Iterable[Path]) -> Found[Pass]:
    """All forward passes in *paths*. Raises: CosttraceError (no file; another schema or version; sampled passes)."""
    return _read(paths, PASS_SCHEMA, _pass)


def read_served(paths: Iterable[Path]) -> Found[Served]:
    """All requests that ended, of the frontend's records in *paths*. Raises: CosttraceError."""
    return _read(paths, REQUEST_SCHEMA, _served)


def _read(paths: Iterable[Path], schema: str, make: Callable[[dict[str, Any]], T | None]) -> Found[T]:
    records: list[T] = []
    damaged = 0
    for path in paths:
        for line in _lines(path):
            try:
                event = json.loads(line, parse_float=Decimal)["event"]
                if event["schema"] != schema:
                    raise CosttraceError(f"{path} holds {event['schema']!r}, not {schema!r}")
                made = make(event)
            except (ValueError, KeyError, TypeError, InvalidOperation):
                damaged += 1
                continue
            if made is not None:
                records.append(made)
    return Found(records, damaged)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, as far as they can be read: a file that is still written has no end."""
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


def _pass(event: dict[str, Any]) -> Pass:
    found, scheduled = event["fpm"], event["fpm"]["scheduled_requests"]
    if found["version"] != PASS_VERSION:
        raise CosttraceError(f"forward-pass metrics of version {found['version']!r} are not known, only {PASS_VERSION}")
    if event["capture_mode"] != "full":
        raise CosttraceError("the trace has samples only: set DYN_FPM_MODE=full on the workers")
    return Pass(
        worker=str(found["worker_id"]),
        rank=int(found["dp_rank"]),
        counter=int(found["counter_id"]),
        ended_ns=int(event["observed_at_unix_ms"]) * NS_PER_MS,
        wall_ns=_ns(found["wall_time"], NS_PER_S),
        prefills=int(scheduled["num_prefill_requests"]),
        prefill_tokens=int(scheduled["sum_prefill_tokens"]),
        decodes=int(scheduled["num_decode_requests"]),
    )


def _served(event: dict[str, Any]) -> Served | None:
    """A request's end. Dynamo 1.4.2 records neither its workers nor when its first token came."""
    if event["event_type"] != "request_end":
        return None
    found = event["request"]
    received_ns = int(found["request_received_ms"]) * NS_PER_MS
    ended_ns = int(event["event_time_unix_ms"]) * NS_PER_MS
    first, whole = found.get("ttft_ms"), found.get("total_time_ms")
    workers = found.get("worker") or {}
    prefill, decode = workers.get("prefill_worker_id"), workers.get("decode_worker_id")
    cached = found.get("cached_tokens")
    prompt = found.get("input_tokens", (found.get("replay") or {}).get("input_length", 0))
    return Served(
        request_id=str(found["request_id"]),
        received_ns=received_ns,
        first_token_ns=None if first is None else received_ns + _ns(first, NS_PER_MS),
        ended_ns=ended_ns if whole is None else received_ns + _ns(whole, NS_PER_MS),
        input_tokens=int(prompt or 0),
        cached_tokens=None if cached is None else int(cached),
        output_tokens=int(found.get("output_tokens") or 0),
        prefill_worker=_name(prefill, decode),
        decode_worker=_name(decode, prefill),
    )


def _name(worker: object, otherwise: object) -> str:
    """A worker's id; that of the other stage where a request had only one."""
    found = worker if worker is not None else otherwise
    return "" if found is None else str(found)


def _ns(value: Decimal | int | str, unit_ns: int) -> int:
    """Nanoseconds of a number of units, rounded to the nearest. Raises: InvalidOperation (not a number)."""
    exact = Decimal(value) * unit_ns
    if not exact.is_finite() or exact < 0:
        raise InvalidOperation(f"{value} is no duration")
    return int(exact.to_integral_value())
