"""ServeGen's clients as tenants: each has a rate and an arrival process by window, and length distributions.

A client has two files, ``<name>-trace.csv`` and ``<name>-dataset.json``. Requests are drawn from these distributions,
not replayed; the same seed draws the same requests.
"""

import ast
import csv
import json
import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import msgspec

from costtrace.core.errors import CosttraceError
from costtrace_lab.simulator.trace_numbers import count

LENGTHS_EVERY_S = 21_600
MIN_PER_S, MAX_PER_S = 1e-9, 1e6
"""Requests of a client in a second."""
MAX_SECONDS = 1e9
GAPS_S = (1e-9, 1e9)
"""Between them lies a mean time to the next request; beyond, a client would never send, or never end."""
EXPONENTIAL = {"Exponential", "Poisson"}


class ServeGenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How long each client sends requests, how often, and the seed."""

    seconds: float = 600.0
    """How long each client sends requests, with the rate of its busiest window."""
    rate: float = 0.0
    """Requests per second of each client; 0: the window's own rate."""
    seed: int = 1


class Burst(NamedTuple):
    """A window in which a client sends requests: rate and arrival process."""

    start_s: float
    per_s: float
    process: str
    shape: float
    scale: float


class Client(NamedTuple):
    """One client: its windows and its lengths."""

    name: str
    bursts: tuple[Burst, ...]
    lengths: dict[int, tuple["Lengths", "Lengths"]]
    """By start of a window (s): distributions of prompt and of output tokens."""


class Lengths(NamedTuple):
    """A distribution of lengths in tokens."""

    tokens: tuple[int, ...]
    cumulated: tuple[float, ...]

    def draw(self, rng: random.Random) -> int:
        """Draw one length, at least 1."""
        index = bisect_right(self.cumulated, rng.random() * self.cumulated[-1])
        return max(1, self.tokens[min(index, len(self.tokens) - 1)])


def clients_in(directory: Path) -> list[Client]:
    """All clients of a directory, sorted by name. Raises: CosttraceError."""
    clients = [_client(path) for path in sorted(directory.glob("*-trace.csv"))]
    if not clients:
        raise CosttraceError(f"{directory} has no ServeGen client: <name>-trace.csv and <name>-dataset.json are needed")
    return clients


def draw(clients: Iterable[Client], servegen_options: ServeGenOptions) -> Iterator[tuple[str, float, int, int]]:
    """(tenant, at_s, prompt tokens, output tokens), client by client, each from its busiest window that has lengths.

    Clients are busy at different times of their recording; here they all start at 0.
    """
    if not 0 < servegen_options.seconds <= MAX_SECONDS:
        raise CosttraceError(
            f"--seconds {servegen_options.seconds}: it must be above 0, and at most {MAX_SECONDS:,.0f}"
        )
    if servegen_options.rate != 0 and not MIN_PER_S <= servegen_options.rate <= MAX_PER_S:
        raise CosttraceError(f"--rate {servegen_options.rate}: it must be 0, or from {MIN_PER_S} to {MAX_PER_S:,.0f}")
    for client in clients:
        rng = random.Random(f"{servegen_options.seed}/{client.name}")  # noqa: S311 - reproducible, not secret
        usable = [burst for burst in client.bursts if _window(burst) in client.lengths]
        if not usable:
            raise CosttraceError(f"the ServeGen client {client.name} has no window with both a rate and lengths")
        burst = max(usable, key=lambda burst: burst.per_s)
        prompts, outputs = client.lengths[_window(burst)]
        # A window's gaps are those within bursts, its rate is over the whole window: scale the gaps to the rate.
        stretch = 1.0 / ((servegen_options.rate or burst.per_s) * _mean_gap(burst))
        at_s = _gap(burst, rng) * stretch
        while at_s < servegen_options.seconds:
            yield client.name, at_s, prompts.draw(rng), outputs.draw(rng)
            at_s += _gap(burst, rng) * stretch


def _window(burst: Burst) -> int:
    return int(burst.start_s // LENGTHS_EVERY_S) * LENGTHS_EVERY_S


def _gap(burst: Burst, rng: random.Random) -> float:
    """Seconds to the next request."""
    if burst.process == "Gamma":
        return rng.gammavariate(burst.shape, burst.scale)
    if burst.process == "Weibull":
        return rng.weibullvariate(burst.scale, burst.shape)
    return rng.expovariate(burst.per_s)


def _mean_gap(burst: Burst) -> float:
    """The mean of `_gap`."""
    if burst.process == "Gamma":
        return burst.shape * burst.scale
    if burst.process == "Weibull":
        return burst.scale * math.gamma(1.0 + 1.0 / burst.shape)
    return 1.0 / burst.per_s


def _client(trace: Path) -> Client:
    name = trace.name.removesuffix("-trace.csv")
    dataset = trace.with_name(f"{name}-dataset.json")
    try:
        with trace.open(newline="", encoding="utf-8") as lines:
            bursts = tuple(_bursts(csv.reader(lines)))
        windows = json.loads(dataset.read_text(encoding="utf-8"))
        lengths = {}
        for start, kinds in windows.items():
            prompts, outputs = (_lengths(kinds[kind]) for kind in ("input_tokens", "output_tokens"))
            if prompts is not None and outputs is not None:
                lengths[int(start)] = (prompts, outputs)
    except (
        *(OSError, ValueError, TypeError, LookupError, AttributeError, SyntaxError),
        *(ArithmeticError, csv.Error, RecursionError, MemoryError),
    ) as error:
        raise CosttraceError(f"cannot read the ServeGen client {trace} and {dataset.name}: {error!r}") from error
    return Client(name, bursts, lengths)


def _bursts(rows: Iterable[Sequence[str]]) -> Iterator[Burst]:
    for row in rows:
        per_s = float(row[1])
        if per_s <= 0:
            continue
        start_s, shape, scale = float(row[0]), *(float(cell or 0) for cell in row[4:6])
        burst = Burst(start_s, per_s, row[3], shape, scale)
        if burst.process not in {"Gamma", "Weibull", *EXPONENTIAL}:
            raise ValueError(f"{burst.process!r:.60} is no known arrival process")
        if not (
            math.isfinite(start_s) and MIN_PER_S <= per_s <= MAX_PER_S and GAPS_S[0] <= _mean_gap(burst) <= GAPS_S[1]
        ):
            raise ValueError(f"no requests can be drawn from {burst}")
        yield burst


def _lengths(text: str) -> Lengths | None:
    """Read ``{tokens: probability, ...}``; None where there is none."""
    chances = {count(tokens): float(chance) for tokens, chance in ast.literal_eval(text).items()}
    if not all(math.isfinite(chance) and chance >= 0 for chance in chances.values()):
        raise ValueError("a probability is negative, or no number")
    if not any(chances.values()):
        return None
    tokens = tuple(sorted(chances))
    return Lengths(tokens, tuple(accumulate(chances[length] for length in tokens)))
