"""Trace and span ids of a usage record. They are hashes of the record, so that sending it again makes the same spans.

A record without a caller's trace gets one, hashed from its tenant and request key: the parts of one request share it,
and two tenants that send the same request id do not.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

from opentelemetry.trace import SpanContext, TraceFlags

from costtrace.core.rows import UsageRecord

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Caller(NamedTuple):
    """The calling span, from a W3C ``traceparent``."""

    trace_id: int
    span_id: int
    sampled: bool


class SpanIds(NamedTuple):
    """Ids of the spans of one usage record."""

    trace_id: int
    parent_id: int
    """0: it has no parent."""
    request: int
    queue: int
    prefill: int
    decode: int


def parse_traceparent(text: str) -> Caller | None:
    """Read a ``traceparent``. None: it is not valid, which W3C treats as if there were none."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return Caller(trace_id, span_id, bool(int(match[4], 16) & 1))


def span_ids(record: UsageRecord) -> SpanIds | None:
    """Ids of the record's spans; None: its caller decided not to sample the trace."""
    caller = parse_traceparent(record.traceparent) if record.traceparent else None
    if caller is not None and not caller.sampled:
        return None
    digest = blake2b(record.record_id.encode(), digest_size=32).digest()
    ids = [int.from_bytes(digest[at : at + 8], "big") or 1 for at in (0, 8, 16, 24)]
    if caller is not None:
        return SpanIds(caller.trace_id, caller.span_id, *ids)
    trace = blake2b(f"{record.tenant}\0{record.request_key}".encode(), digest_size=16).digest()
    return SpanIds(int.from_bytes(trace, "big") or 1, 0, *ids)


def context(trace_id: int, span_id: int, *, remote: bool = False) -> SpanContext:
    """A sampled span context."""
    return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=_SAMPLED)
