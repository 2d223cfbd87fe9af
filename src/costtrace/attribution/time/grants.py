"""What an engine was granted of a device's time."""

from collections.abc import Iterable, Sequence

from costtrace.attribution.time.segments import Segment
from costtrace.core.events import Event


class Grant(Event, tag=101, frozen=True):
    """A segment, or a piece of one that lies in one window, with what each device gave the engine for it."""

    segment: Segment
    start_ns: int
    end_ns: int
    window_ns: int
    """Wall time at which its window begins."""
    device_ns: tuple[int, ...]
    """Nanoseconds by device, in the order of the engine's devices."""
    last: bool
    """The last piece of its segment."""
    shared: tuple[int, ...] = ()
    """Which of the devices (by place) other engines had at the same time."""

    @property
    def device_steps(self) -> float:
        """How many device-steps it is: its part of the segment's length, on each device."""
        segment_ns = self.segment.end_ns - self.segment.start_ns
        return len(self.device_ns) * ((self.end_ns - self.start_ns) / segment_ns if segment_ns else 1.0)


def cut(segment: Segment, wall_offset_ns: int, window_length_ns: int) -> Iterable[tuple[int, int, int, bool]]:
    """Pieces of a segment by window: (start, end, window's wall time, last piece?), in monotonic ns.

    Windows begin at whole multiples of their length in wall time; a segment without length is one piece.
    """
    start = segment.start_ns
    while True:
        window_ns = (start + wall_offset_ns) // window_length_ns * window_length_ns
        end = min(segment.end_ns, window_ns + window_length_ns - wall_offset_ns)
        last = end >= segment.end_ns
        yield start, end, window_ns, last
        if last:
            return
        start = end


def grants_alone(segment: Segment, wall_offset_ns: int, window_length_ns: int, devices: int) -> Iterable[Grant]:
    """Grants of an engine that has its devices to itself: wall time on each of them."""
    window_ns = (segment.start_ns + wall_offset_ns) // window_length_ns * window_length_ns
    if segment.end_ns <= window_ns + window_length_ns - wall_offset_ns:  # nearly always it lies in one window
        length = segment.end_ns - segment.start_ns
        yield Grant(segment, segment.start_ns, segment.end_ns, window_ns, (length,) * devices, last=True)
        return
    for start, end, window_ns, last in cut(segment, wall_offset_ns, window_length_ns):
        yield Grant(segment, start, end, window_ns, (end - start,) * devices, last)


def split_equally(start_ns: int, end_ns: int, claimants: Sequence[str]) -> dict[str, int]:
    """[start, end) in whole ns by claimant: they take turns, nanosecond by nanosecond, in the order of their names.

    Sums to the length; shares differ by 1 ns at most. However a stretch is cut, its pieces add up to the same shares:
    what an engine is granted does not depend on when it is computed.
    """
    count = len(claimants)

    def turns(name_index: int, until_ns: int) -> int:
        return (until_ns - name_index + count - 1) // count

    return {name: turns(i, end_ns) - turns(i, start_ns) for i, name in enumerate(sorted(claimants))}
