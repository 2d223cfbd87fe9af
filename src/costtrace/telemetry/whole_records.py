"""Records of one request put together, for histograms: they have one value for each request, and never take one back.

Where several engines run, a record waits for those of the same request: while an engine works on it, and a little
longer, because engines' journals are not read in one moment. What other nodes did is not waited for.
"""

import time
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from costtrace.core.rows import UsageCost, UsageRecord
from costtrace.ledger.wholes import LOCAL, whole_key

WAIT_S = 5.0
Closed = tuple[UsageRecord, UsageCost]


class WholeRecords:
    """Holds records back until their request is whole."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._held: dict[tuple[str, str], list[Closed]] = {}
        self._newest_s: dict[tuple[str, str], float] = {}

    def take(self, records: Iterable[Closed], is_open: Callable[[str], bool] | None) -> list[Closed]:
        """Add *records* and return what is whole, and waits no more.

        *is_open*: whether an engine works on a request key; None: there is no other engine, so nothing waits.
        """
        now_s = self._now_s()
        for record, cost in records:
            key = (record.tenant, whole_key(record.request_key))
            self._held.setdefault(key, []).append((record, cost))
            self._newest_s[key] = now_s
        ready = [
            key
            for key, since_s in self._newest_s.items()
            if is_open is None
            or (now_s - since_s >= WAIT_S and not any(is_open(record.request_key) for record, _ in self._held[key]))
        ]
        for key in ready:
            del self._newest_s[key]
        return [whole for key in ready for whole in _together(self._held.pop(key))]


def _together(parts: list[Closed]) -> list[Closed]:
    if len(parts) == 1 or all(record.part == 1 or record.tenant_source in LOCAL for record, _ in parts):
        return parts
    parts.sort(key=lambda part: (part[0].part, part[0].attempt, part[0].arrived_ns))
    (first, cost), records, costs = parts[0], [record for record, _ in parts], [cost for _, cost in parts]
    energies = [record.energy_uj for record in records if record.energy_uj is not None]
    priced = len({cost.currency for cost in costs}) == 1

    def nano(name: str) -> int | None:
        values = [getattr(cost, name) for cost in costs]
        return sum(values) if priced and None not in values else None

    whole = replace(
        first,
        gpu_ns=sum(record.gpu_ns for record in records),
        decode_ns=sum(record.decode_ns for record in records),
        energy_uj=sum(energies) if energies else None,
        energy_unknown_ns=sum(record.energy_unknown_ns for record in records),
        counted_output=sum(record.counts().output_tokens for record in records),
    )
    amounts = (nano("cost_nano"), nano("prefill_nano"), nano("decode_nano"))
    return [(whole, UsageCost(*amounts, cost.currency, cost.price_book))]
