"""Devices that several engines use: each instant of a device is given out once, in whole nanoseconds.

A `DeviceGroup` holds the engines of one host that are connected by common devices (usually: one engine). It sweeps time
up to a limit up to which everything is known, and grants each engine its share of each of its devices:

* split equally among the engines that are busy or starting up at that instant;
* if there are none, among those whose time was not observed;
* otherwise the instant is idle, and split among all engines that have the device (they all hold its memory).

Other engines know of an engine from its announcement (when its journal began). Start-up time before that is its own
only where no other engine had the device: no time is given out twice.

Grants do not depend on how often, or up to when, a sweep is made: the same journals give the same rows.
"""

from collections import deque
from collections.abc import Iterator

import msgspec

from costtrace.attribution.time.grants import Grant, cut, grants_alone, split_equally
from costtrace.attribution.time.segments import Segment, TimelineItem
from costtrace.core.events import Heartbeat
from costtrace.core.wall_time import wall_offset

_CLAIMS: tuple[tuple[str, ...], ...] = (("busy", "overhead"), ("unobserved",), ("idle",))


class GroupMember(msgspec.Struct):
    """One engine in the sweep."""

    engine_id: str
    devices: tuple[str, ...]
    started_ns: int
    announced_ns: int
    wall_offset_ns: int
    queue: list[TimelineItem] = []
    known_ns: int = 0
    """Its segments are complete up to here."""
    swept_ns: int = 0
    """Its time has been given out up to here by another group, which this one has absorbed."""
    joined: bool = False
    """Its time before the announcement has been given out; it takes part in the sweep."""
    ended: bool = False
    piece_start_ns: int = -1
    piece_ns: list[int] = []
    """What the piece that is being swept has been granted so far, by device."""
    piece_shared: set[int] = set()
    """Which of its devices others had during that piece."""


Granted = tuple[str, Grant | TimelineItem]
"""Engine id, and a grant or one of its events."""


class DeviceGroup(msgspec.Struct):
    """Engines connected by devices, and how far their time has been given out."""

    window_length_ns: int
    members: dict[str, GroupMember] = {}
    swept_ns: int = 0
    claimed_ns: dict[str, list[tuple[int, int]]] = {}
    """By device, when engines that have ended had it: (from, to), sorted, disjoint."""

    def join(self, member: GroupMember) -> None:
        """Take an engine into the group, best before anything after its announcement has been swept."""
        member.announced_ns = max([member.announced_ns, self.swept_ns, *(m.swept_ns for m in self.members.values())])
        self.members[member.engine_id] = member

    def absorb(self, other: "DeviceGroup") -> None:
        """Take over the members of a group that a new engine's devices connect with this one."""
        for group in (self, other):
            for member in group.members.values():
                member.swept_ns = max(member.swept_ns, group.swept_ns)
        self.members |= other.members
        self.swept_ns = min(self.swept_ns, other.swept_ns)
        for device, claims in other.claimed_ns.items():
            self.claimed_ns[device] = merged([*self.claimed_ns.get(device, []), *claims])

    def sweep(self, limit_ns: int) -> Iterator[Granted]:
        """Give out all time that is known for every engine, up to *limit_ns* at most."""
        for member in sorted(self.members.values(), key=lambda m: (m.announced_ns, m.engine_id)):
            if member.joined:
                continue
            # Its time up to then has to be known, and whether another engine still had one of its devices.
            others = [m for m in self.members.values() if m.joined or m is member]
            if member.announced_ns > min([limit_ns, *(m.known_ns for m in others if not m.ended)]):
                break
            yield from self._before_announcement(member)
            member.joined = True
        joined = [m for m in self.members.values() if m.joined]
        limit_ns = min([limit_ns, *(m.known_ns for m in joined if not m.ended)])
        limit_ns = min([limit_ns, *(m.announced_ns for m in self.members.values() if not m.joined)])
        if len(self.members) == 1 and joined:
            yield from self._alone(joined[0], limit_ns)
        elif joined:
            yield from self._together(joined, limit_ns)
        for member in [m for m in joined if m.ended and not m.queue]:
            del self.members[member.engine_id]
            for device in member.devices:
                claims = [*self.claimed_ns.get(device, []), (member.started_ns, member.known_ns)]
                self.claimed_ns[device] = merged(claims)

    def _alone(self, member: GroupMember, limit_ns: int) -> Iterator[Granted]:
        """The usual case: an engine with its devices to itself."""
        taken = 0
        # A piece that was begun while others shared the devices goes on where that sweep ended.
        resume_ns = max(self.swept_ns, member.swept_ns) if member.piece_start_ns >= 0 else member.swept_ns
        for item in member.queue:
            if isinstance(item, Segment):
                if item.end_ns > limit_ns:
                    break
                rest = item
                if item.start_ns < resume_ns:
                    rest = msgspec.structs.replace(item, start_ns=min(resume_ns, item.end_ns))
                for grant in grants_alone(rest, member.wall_offset_ns, self.window_length_ns, len(member.devices)):
                    whole = grant if rest is item else msgspec.structs.replace(grant, segment=item)
                    yield member.engine_id, self._with_piece(member, whole)
                self.swept_ns = max(self.swept_ns, item.end_ns)
            else:
                yield self._event(member, item)
            taken += 1
        del member.queue[:taken]

    def _with_piece(self, member: GroupMember, grant: Grant) -> Grant:
        """Add what the engine had been granted for this piece while it still shared its devices."""
        if not member.piece_ns:
            return grant
        device_ns = tuple(a + b for a, b in zip(grant.device_ns, member.piece_ns, strict=True))
        start_ns = min(grant.start_ns, member.piece_start_ns)
        shared = tuple(sorted(member.piece_shared))
        member.piece_ns, member.piece_start_ns, member.piece_shared = [], -1, set()
        return msgspec.structs.replace(grant, start_ns=start_ns, device_ns=device_ns, shared=shared)

    @staticmethod
    def _event(member: GroupMember, item: TimelineItem) -> Granted:
        if isinstance(item, Heartbeat):
            member.wall_offset_ns = wall_offset(member.wall_offset_ns, item)
        return member.engine_id, item

    def _before_announcement(self, member: GroupMember) -> Iterator[Granted]:
        """Grant start-up time before the announcement, where no other engine had the device."""
        taken = [self._taken(device, member) for device in member.devices]
        queue = deque(member.queue)
        kept: list[TimelineItem] = []
        while queue:
            item = queue.popleft()
            if not isinstance(item, Segment):
                if kept:
                    kept.append(item)
                else:
                    yield self._event(member, item)
            elif item.start_ns >= member.announced_ns:
                kept.append(item)
            else:
                if item.end_ns > member.announced_ns:
                    kept.append(Segment(member.announced_ns, item.end_ns, item.kind, item.reason, item.step))
                    item = Segment(item.start_ns, member.announced_ns, item.kind, item.reason, None)
                for start, end, window_ns, last in cut(item, member.wall_offset_ns, self.window_length_ns):
                    device_ns = tuple(_free_length(start, end, others) for others in taken)
                    shared = tuple(i for i, ns in enumerate(device_ns) if ns < end - start)
                    yield member.engine_id, Grant(item, start, end, window_ns, device_ns, last, shared)
        member.queue = kept

    def _taken(self, device: str, member: GroupMember) -> list[tuple[int, int]]:
        """When *device* was other engines', before *member* was announced."""
        taken = list(self.claimed_ns.get(device, []))
        taken.extend(
            (other.started_ns, other.known_ns if other.ended else member.announced_ns)
            for other in self.members.values()
            if other.joined and device in other.devices
        )
        return sorted(taken)

    def _together(self, joined: list[GroupMember], limit_ns: int) -> Iterator[Granted]:
        """Several engines: from one boundary of any of their segments or windows to the next."""
        now = self.swept_ns or min(m.announced_ns for m in joined)
        while True:
            for member in joined:
                yield from self._pass_events(member, now)
            ahead = self._next_boundary(joined, now, limit_ns)
            if ahead <= now:
                break
            self._give(joined, now, ahead)
            now = ahead
            for member in joined:
                yield from self._finish_pieces(member, now)
        self.swept_ns = max(self.swept_ns, now)

    def _pass_events(self, member: GroupMember, now: int) -> Iterator[Granted]:
        """Yield events and segments without length from the head of the queue."""
        while member.queue:
            head = member.queue[0]
            if isinstance(head, Segment):
                if head.end_ns > now or head.end_ns > head.start_ns:
                    return
                offset, length = member.wall_offset_ns, self.window_length_ns
                window_ns = (head.start_ns + offset) // length * length
                nothing = (0,) * len(member.devices)
                yield member.engine_id, Grant(head, head.start_ns, head.end_ns, window_ns, nothing, last=True)
            else:
                yield self._event(member, head)
            del member.queue[0]

    def _next_boundary(self, joined: list[GroupMember], now: int, limit_ns: int) -> int:
        if not any(member.queue for member in joined):
            return now
        ahead = limit_ns
        for member in joined:
            head = member.queue[0] if member.queue else None
            if isinstance(head, Segment):
                start_ns = max(head.start_ns, member.swept_ns)
                ahead = min(ahead, head.end_ns if start_ns <= now else start_ns)
                length = self.window_length_ns
                window_end = ((now + member.wall_offset_ns) // length + 1) * length - member.wall_offset_ns
                ahead = min(ahead, window_end)
        return ahead

    def _give(self, joined: list[GroupMember], start_ns: int, end_ns: int) -> None:
        current: dict[str, tuple[GroupMember, str]] = {}
        for member in joined:
            head = member.queue[0] if member.queue else None
            if isinstance(head, Segment) and max(head.start_ns, member.swept_ns) <= start_ns:
                current[member.engine_id] = (member, head.kind)
                if not member.piece_ns:
                    member.piece_start_ns = start_ns
                    member.piece_ns = [0] * len(member.devices)
        for device in {device for member, _ in current.values() for device in member.devices}:
            users = {name: kind for name, (member, kind) in current.items() if device in member.devices}
            claimants: list[str] = []
            for kinds in _CLAIMS:
                claimants = [name for name, kind in users.items() if kind in kinds]
                if claimants:
                    break
            if len(users) > 1:
                for name in users:
                    member = current[name][0]
                    member.piece_shared.add(member.devices.index(device))
            for name, share_ns in split_equally(start_ns, end_ns, claimants).items():
                member = current[name][0]
                member.piece_ns[member.devices.index(device)] += share_ns

    def _finish_pieces(self, member: GroupMember, now: int) -> Iterator[Granted]:
        """Yield the piece that ends at *now*, because its segment or its window does."""
        head = member.queue[0] if member.queue else None
        if not isinstance(head, Segment) or not member.piece_ns or member.piece_start_ns >= now:
            return
        last = head.end_ns <= now
        length = self.window_length_ns
        if not last and (now + member.wall_offset_ns) % length:
            return
        window_ns = (member.piece_start_ns + member.wall_offset_ns) // length * length
        device_ns, shared = tuple(member.piece_ns), tuple(sorted(member.piece_shared))
        yield member.engine_id, Grant(head, member.piece_start_ns, now, window_ns, device_ns, last, shared)
        member.piece_ns, member.piece_shared = [], set()
        member.piece_start_ns = now
        if last:
            del member.queue[0]


def merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of *intervals* as sorted, disjoint ones."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def _free_length(start_ns: int, end_ns: int, taken: list[tuple[int, int]]) -> int:
    """How much of [start, end) lies in none of the sorted intervals *taken*."""
    free = 0
    for begin, end in taken:
        if begin >= end_ns:
            break
        free += max(0, begin - start_ns)
        start_ns = max(start_ns, end)
    return free + max(0, end_ns - start_ns)
