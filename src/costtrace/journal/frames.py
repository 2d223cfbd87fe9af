"""The journal's file format: frames of events.

    frame   = magic (2 bytes) | length (u32 LE) | crc32 of payload (u32 LE) | payload
    payload = msgpack array: [sequence number of the first event, event, event, ...]

A frame is written by one ``write``, whole or not at all: a torn tail loses at most one frame. A reader leaves a damaged
stretch at the next magic whose checksum holds. Frames decode independently of each other.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from costtrace.core.client_text import writable
from costtrace.core.events import AnyEvent, Event, Steady, Step

MAGIC = b"\xc7\x05"
_HEAD = struct.Struct("<2sII")
HEAD_BYTES = _HEAD.size
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024
"""No writer makes a larger frame: a greater length is damage."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[int | AnyEvent]).decode


class Frame(NamedTuple):
    """A decoded frame and where the next one begins."""

    first_sequence: int
    events: list[AnyEvent]
    end: int


class Damage(NamedTuple):
    """A stretch of a segment that cannot be read: bytes [start, end)."""

    start: int
    end: int
    why: str


def pack(first_sequence: int, events: Sequence[Event]) -> bytes:
    """One frame holding *events* in order.

    Raises: ValueError (too large to be read back), OverflowError (a number of more than 64 bits).
    """
    content = [first_sequence, *_shorten(events)]
    try:
        payload = _encode(content)
    except UnicodeEncodeError:
        payload = b""
    if not payload or len(payload) > MAX_PAYLOAD_BYTES or _is_crafted(payload):
        payload = _encode(writable(content))
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{len(events)} events of {len(payload):,} bytes: a frame holds {MAX_PAYLOAD_BYTES:,}")
    return _HEAD.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload


def unpack(data: bytes, start: int) -> Frame | Damage | None:
    """The frame at *start*, or the damage there; None where the data ends before the frame does.

    None means a frame that is just being written, or, if the writer is gone, a torn tail.
    """
    if start + HEAD_BYTES > len(data):
        return None
    magic, length, checksum = _HEAD.unpack_from(data, start)
    if magic != MAGIC or length > MAX_PAYLOAD_BYTES:
        return _damage(data, start, "no frame begins here")
    end = start + HEAD_BYTES + length
    if end > len(data):
        # A torn tail, or a damaged length: it is the latter if a whole frame follows.
        following = _next_frame(data, start + 1)
        return None if following is None else Damage(start, following, "the length is damaged")
    payload = data[start + HEAD_BYTES : end]
    if zlib.crc32(payload) != checksum:
        return _damage(data, start, "the checksum does not hold")
    try:
        content = _decode(payload)
        if not content or not isinstance(content[0], int):
            return Damage(start, end, "no sequence number")
        return Frame(content[0], list(_lengthen(content[1:])), end)
    except msgspec.DecodeError as error:
        return Damage(start, end, f"unknown content ({error})")


def _damage(data: bytes, start: int, why: str) -> Damage:
    following = _next_frame(data, start + 1)
    return Damage(start, len(data) if following is None else following, why)


def _next_frame(data: bytes, start: int) -> int | None:
    """Offset of the next whole, undamaged frame."""
    for at, begin, end, checksum in _heads(data, start):
        if zlib.crc32(data[begin:end]) == checksum:
            return at
    return None


def _is_crafted(payload: bytes) -> bool:
    """Whether texts of clients could be taken for a frame by a reader after damage, or take long to be ruled out."""
    left = len(payload)
    for _, begin, end, checksum in _heads(payload, 0):
        left -= end - begin
        if left < 0 or zlib.crc32(payload[begin:end]) == checksum:
            return True
    return False


def _heads(data: bytes, start: int) -> Iterator[tuple[int, int, int, int]]:
    """What looks like a whole frame from *start* on: where it is, begin and end of its payload, its checksum."""
    while (start := data.find(MAGIC, start)) >= 0:
        begin = start + HEAD_BYTES
        if begin <= len(data):
            _, length, checksum = _HEAD.unpack_from(data, start)
            if begin + length <= len(data):
                yield start, begin, begin + length, checksum
        start += 1


def _shorten(events: Sequence[Event]) -> Iterator[Event]:
    """Replace steps in which the batch stays as it is by `Steady`."""
    last: Step | None = None
    for event in events:
        if type(event) is Step:
            if (
                last is not None
                and event.index == last.index + 1
                and not (event.leaves or event.enters or event.items or event.encoder)
            ):
                yield Steady(event.scheduled_ns - last.done_ns, event.done_ns - event.scheduled_ns)
            else:
                yield event
            last = event
        else:
            yield event


def _lengthen(events: Sequence[int | AnyEvent]) -> Iterator[AnyEvent]:
    """Replace each `Steady` by the step that it stands for. Raises: msgspec.DecodeError."""
    last: Step | None = None
    for event in events:
        if type(event) is Steady:
            if last is None:
                raise msgspec.DecodeError("a steady step with no step before it in its frame")
            scheduled_ns = last.done_ns + event.after_ns
            last = Step(last.index + 1, scheduled_ns, scheduled_ns + event.took_ns)
            yield last
            continue
        if isinstance(event, int):
            raise msgspec.DecodeError("a number where an event should be")
        if type(event) is Step:
            last = event
        yield event
