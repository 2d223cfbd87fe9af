"""From device time and energy to money, exactly. Pure: rates come in as fractions, money leaves as integers.

    nano = ns * numerator / denominator          (device: price per GPU-hour)
    nano = uj * numerator / denominator          (energy: tariff per kWh x PUE)

Charges are rounded cumulatively, by engine and rate: after every charge, the sum of all of them is the floor of the
exact total, so rounding does not accumulate and the bill adds up to the nano-unit.
"""

from collections.abc import Mapping
from typing import NamedTuple

from costtrace.core.apportion import largest_remainder
from costtrace.core.rows import Charge


class Rate(NamedTuple):
    """The prices that apply to one kind of device at one time, as exact fractions of nano-units per ns and per uJ."""

    rate_id: str
    price_book: str
    currency: str
    device_entry: str
    device_numerator: int
    device_denominator: int
    energy_numerator: int
    energy_denominator: int
    """0: no tariff applies."""
    includes_energy: bool

    def row(self) -> tuple[str, str, str, str, str, str, str, str, int]:
        """Return the columns of the ledger's table ``rate``, as `Ledger.put_rate` takes them."""
        energy = (str(self.energy_numerator), str(self.energy_denominator)) if self.energy_denominator else ("", "")
        device = (str(self.device_numerator), str(self.device_denominator))
        return (*self[:4], *device, *energy, int(self.includes_energy))


class Rater:
    """Turns ns and uJ into nano-units and carries the remainders of rounding on. Its state outlives the process."""

    def __init__(self, state: Mapping[str, int] | None = None) -> None:
        self._remainders = dict(state or {})

    def state(self) -> dict[str, int]:
        """Return all remainders for the next `Rater`: each below one nano-unit, in units of 1/denominator."""
        return dict(self._remainders)

    def forget(self, engine_id: str) -> None:
        """Drop the remainders of an engine that has ended."""
        self._remainders = {key: value for key, value in self._remainders.items() if key.split("|")[0] != engine_id}

    def charge(self, engine_id: str, rate: Rate | None, gpu_ns: int, energy_uj: int | None) -> Charge:
        """Charge one posting. Without a rate all of it is unknown; without energy or tariff, the energy's part.

        The sum over all charges of one engine and rate is the floor of the exact total, after every call.
        """
        if rate is None:
            return Charge()
        key = f"{engine_id}|{rate.rate_id}|"
        device_nano = self._round(f"{key}ns", gpu_ns * rate.device_numerator, rate.device_denominator)
        energy_nano: int | None = None
        if rate.includes_energy:
            energy_nano = 0
        elif energy_uj is not None and rate.energy_denominator:
            energy_nano = self._round(f"{key}uj", energy_uj * rate.energy_numerator, rate.energy_denominator)
        return Charge(rate.rate_id, device_nano, energy_nano)

    def _round(self, key: str, exact: int, denominator: int) -> int:
        nano, self._remainders[key] = divmod(self._remainders.get(key, 0) + exact, denominator)
        return nano


def split_phases(
    charge: Charge, prefill_ns: int, decode_ns: int, prefill_uj: int | None = None, decode_uj: int | None = None
) -> tuple[int | None, int | None]:
    """Split a posting's cost into prefill and decode, nano-units that sum to `charge.cost_nano`. None: unknown.

    The device's part goes by time; the energy's part by energy, or by time where the phases' energy is not known.
    """
    if charge.device_nano is None or charge.energy_nano is None:
        return None, None
    device = _split(charge.device_nano, prefill_ns, decode_ns)
    if prefill_uj is None or decode_uj is None:
        prefill_uj, decode_uj = prefill_ns, decode_ns
    energy = _split(charge.energy_nano, prefill_uj, decode_uj)
    return device[0] + energy[0], device[1] + energy[1]


def _split(nano: int, prefill: int, decode: int) -> tuple[int, int]:
    if prefill + decode == 0:
        return 0, nano
    first, second = largest_remainder(nano, (prefill, decode))
    return first, second
