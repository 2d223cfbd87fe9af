"""What an answer has probably cost, by means in one small file that the agent writes for the servers of its node.

The agent knows what requests have cost; a server knows, when it answers, how many tokens it has used. Both need the
same ``cost_estimates``, which is off by default. Engine processes import this: it needs only msgspec.

It is an estimate and is labelled so. Where a mean is missing (no price, no history, a file that is older than `VALID_S`
or damaged) there is no estimate: unknown, never 0. Amounts are nano-units of the currency, times ns, energies uJ.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from costtrace.capture.node_files.whole_file import write_whole
from costtrace.core.guard import guard
from costtrace.core.rows import Means
from costtrace.core.units import amount, joules, seconds

VALID_S = 600.0
"""How long the file is valid after the agent wrote it."""
LOOK_EVERY_S = 1.0
MODEL, TENANT = "model", "tenant"
"""Which requests a mean is made of: all of a model, or one tenant's requests of the model."""


class Written(msgspec.Struct, frozen=True):
    """The file."""

    written_s: float
    scope: str
    means: list[Means]


class Used(NamedTuple):
    """Tokens of an answer, as its server counts them."""

    input_tokens: int
    cached_tokens: int | None
    """None: the server does not report them."""
    output_tokens: int


class Estimate(NamedTuple):
    """What an answer has probably cost."""

    nano: int
    gpu_ns: int
    energy_uj: int | None
    means: Means

    def details(self) -> dict[str, Any]:
        """As it is put into an answer, in currency units, seconds and joules."""
        means = self.means
        whose = "this tenant" if means.tenant else "all tenants"
        details: dict[str, Any] = {
            "estimate": True,
            "amount": f"{amount(self.nano):f}",
            "currency": means.currency,
            "gpu_time_s": seconds(self.gpu_ns),
            "basis": f"mean per token of {means.requests} requests of {whose} for this model; idle is not in it",
            "since": _moment(means.since_s),
            "until": _moment(means.until_s),
        }
        if self.energy_uj is not None:
            details["energy_j"] = joules(self.energy_uj)
        if means.simulated:
            details["simulated"] = True
        return details


def _moment(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_s))


def estimate(means: Means, used: Used) -> Estimate | None:
    """What *used* costs at *means*; None where they have no mean of one of its kinds of tokens."""
    if used.cached_tokens is None:
        prefill = (used.input_tokens, means.input_tokens)
    else:
        prefill = (used.input_tokens - used.cached_tokens, means.input_tokens - means.cached_tokens)
    decode = (used.output_tokens, means.output_tokens)
    nano = _both(means.prefill_nano, prefill, means.decode_nano, decode)
    gpu_ns = _both(means.prefill_ns, prefill, means.decode_ns, decode)
    if nano is None or gpu_ns is None:
        return None
    return Estimate(nano, gpu_ns, _both(means.prefill_uj, prefill, means.decode_uj, decode), means)


def _both(prefill: int | None, input_: tuple[int, int], decode: int | None, output: tuple[int, int]) -> int | None:
    """Prefill and decode together: *input_* and *output* are (tokens used, tokens that the sums are of)."""
    prefill_share, decode_share = _share(prefill, *input_), _share(decode, *output)
    return None if prefill_share is None or decode_share is None else prefill_share + decode_share


def _share(total: int | None, tokens: int, of_tokens: int) -> int | None:
    """*tokens* times the mean of *total* over *of_tokens*, to the nearest integer; None where there is no mean."""
    if tokens == 0:
        return 0
    if total is None or of_tokens <= 0 or tokens < 0:
        return None
    return (2 * total * tokens + of_tokens) // (2 * of_tokens)


def path_below(home: Path) -> Path:
    """Path of the file."""
    return home / "cost-estimates.json"


def write(home: Path, scope: str, means: Iterable[Means], now_s: float) -> None:
    """Replace the file: what requests cost, as of *now_s* (epoch). Raises: OSError."""
    write_whole(path_below(home), msgspec.json.encode(Written(now_s, scope, list(means))))


class EstimateReader:
    """Looks up the means for each answer; checks at most once in `LOOK_EVERY_S` whether the file has changed."""

    def __init__(self, home: Path, scope: str) -> None:
        self._path = path_below(home)
        self._scope = scope
        self._looked_s = -LOOK_EVERY_S
        self._changed_ns = 0
        self._written_s = 0.0
        self._means: Mapping[tuple[str, str], Means] = {}

    def means(self, model: str, tenant: str) -> Means | None:
        """The means of *model* (and of *tenant*, if they are by tenant); None where there are none. Never raises."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            with guard("cost_estimates"):
                self._look()
        # Written in the future: a clock was set back, and the age of the file is unknown.
        if not 0 <= time.time() - self._written_s <= VALID_S:
            return None
        return self._means.get((model, "" if self._scope == MODEL else tenant))

    def _look(self) -> None:
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            self._changed_ns, self._means = 0, {}
            return
        if changed_ns == self._changed_ns:
            return
        self._changed_ns, self._means = changed_ns, {}
        written = msgspec.json.decode(self._path.read_bytes(), type=Written)
        # A server that may show each tenant only its own means must not show those of all tenants, nor the reverse.
        if written.scope == self._scope:
            self._means = {(each.model, each.tenant): each for each in written.means}
            self._written_s = written.written_s
