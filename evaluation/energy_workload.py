"""A simulated LLM server whose power is known step by step: the truth that an energy evaluation needs.

Continuous batching with chunked prefill of an 8-billion-parameter model on one device. Step times follow the roofline
(docs/method/paper.md, section 1) at 60 to 80 % efficiency with 3 % noise. Power is physics of another form than the
product's energy model: static watts that drift as the device warms, energy per byte read (weights included) and per
operation, 5 % noise from step to step, and a cap at the board's limit. Nothing here is measured: every figure made
from it is SIMULATED.
"""

import csv
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from costtrace_lab.engines.schedules import DISPATCH_NS, HEARTBEAT_NS, SHAPE, WALL_OFFSET_NS, header, started
from game import RooflineGame, shapley_of_common

from costtrace.attribution.energy.model import NOTHING, Load
from costtrace.attribution.steps.cost_model import Coefficients, Features
from costtrace.core.events import AnyEvent, EngineReady, EngineStopped, Heartbeat, SequenceAdded, SequenceFinished, Step
from costtrace.core.units import NS_PER_S

TOKEN_BUDGET = 2_048
MAX_RUNNING = 256
BANDWIDTH = 3.35e12 * 0.8
FLOPS = 9.9e14 * 0.6
COEFFICIENTS = Coefficients(
    launch=6e-4,
    token=2 * SHAPE.active_params / FLOPS,
    weights=SHAPE.weight_bytes / BANDWIDTH,
    context=SHAPE.kv_bytes_per_token / BANDWIDTH,
    attention=4 * SHAPE.layers * SHAPE.heads * SHAPE.head_size / FLOPS,
    sequence=5e-6,
)
GAME = RooflineGame(SimpleNamespace(coefficients=COEFFICIENTS))
ORDERS = 32
"""And their reverses, in a step with so many chunks that its coalitions cannot be listed."""
IDLE_W = 95.0
STATIC_W = 130.0
"""While a step runs, before anything is read or computed."""
WARM_SHARE, WARM_S = 0.06, 60.0
"""Static power grows by this share as the device warms, with this time constant."""
J_PER_BYTE = 90e-12
J_PER_FLOP = 0.8e-12
LIMIT_W = 700.0
TIME_NOISE, POWER_NOISE = 0.03, 0.05


class Request(NamedTuple):
    """What a client asks for."""

    arrived_s: float
    prompt: int
    output: int


class Done(NamedTuple):
    """A request as the simulation knows it."""

    request_id: str
    output: int
    energy_uj: float
    arrived_s: float


class Span(NamedTuple):
    """A stretch of constant power, from the beginning of the simulation (ns)."""

    from_ns: int
    until_ns: int
    power_mw: int
    shares: tuple[tuple[int, float], ...]
    """Slot and its part of the step's energy; empty while the device idles."""
    load: Load = NOTHING
    """What the energy model knows of it."""


class Served(NamedTuple):
    """All of a run."""

    events: list[AnyEvent]
    spans: list[Span]
    requests: list[Done]
    until_ns: int


def requests(seed: int, rate: float, seconds: float, trace: Path | None) -> list[Request]:
    """Poisson arrivals; lengths from *trace* (Azure 2023 format), else lognormal with the means of such a trace."""
    rng = random.Random(seed)
    lengths = _lengths(trace) if trace is not None else []
    requests, at = [], 2.0
    while (at := at + rng.expovariate(rate)) < seconds:
        prompt, output = rng.choice(lengths) if lengths else (_lognormal(rng, 900, 0.7), _lognormal(rng, 170, 0.65))
        requests.append(Request(at, max(1, min(prompt, 8_000)), max(1, min(output, 1_000))))
    return requests


def _lengths(trace: Path) -> list[tuple[int, int]]:
    with trace.open(newline="") as file:
        return [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]


def _lognormal(rng: random.Random, median: float, sigma: float) -> int:
    return round(median * math.exp(rng.gauss(0, sigma)))


class _Running:
    """A sequence on its way."""

    __slots__ = ("computed", "joined", "made", "request", "slot", "uj")

    def __init__(self, slot: int, request: Request) -> None:
        self.slot, self.request = slot, request
        self.computed = self.made = 0
        self.joined = False
        self.uj = 0.0

    @property
    def key(self) -> str:
        return f"request-{self.slot}"


class Server:
    """Serves a list of requests. `run` once."""

    def __init__(self, asked: list[Request], seed: int, base_ns: int, device: str) -> None:
        self._asked = asked
        self._rng = random.Random(seed)
        self._orders = np.random.default_rng(seed)
        self._base_ns, self._now_ns = base_ns, 0
        self._waiting: list[_Running] = []
        self._running: list[_Running] = []
        self._leaves: list[int] = []
        self._index = -1
        self._beat_ns = 0
        self.events: list[AnyEvent] = [header("simulator-energy", base_ns), started((device,), base_ns)]
        self.spans: list[Span] = []
        self.done: list[Done] = []

    def run(self) -> Served:
        """Serve everything."""
        self.events.append(EngineReady(self._base_ns))
        self._idle(NS_PER_S)
        todo = list(enumerate(self._asked, 1))
        while todo or self._waiting or self._running:
            while todo and todo[0][1].arrived_s * NS_PER_S <= self._now_ns:
                slot, request = todo.pop(0)
                self._arrive(slot, request)
            if self._waiting or self._running:
                self._step()
            else:
                self._idle(round(todo[0][1].arrived_s * NS_PER_S) - self._now_ns + 1)
        self._idle(2 * NS_PER_S)
        self.events.append(EngineStopped(self._base_ns + self._now_ns))
        return Served(self.events, self.spans, self.done, self._now_ns)

    def _arrive(self, slot: int, request: Request) -> None:
        sequence = _Running(slot, request)
        self._waiting.append(sequence)
        key, at_ns = sequence.key, self._base_ns + self._now_ns
        self.events.append(
            SequenceAdded(slot, at_ns, key, key, key, key, request.prompt, "sim", "tenant", "header"),
        )

    def _idle(self, length_ns: int) -> None:
        until_ns = self._now_ns + length_ns
        while self._now_ns < until_ns:
            part_ns = min(HEARTBEAT_NS, until_ns - self._now_ns)
            self.spans.append(Span(self._now_ns, self._now_ns + part_ns, round(IDLE_W * 1_000), ()))
            self._now_ns += part_ns
            self._beat()

    def _beat(self) -> None:
        if self._now_ns - self._beat_ns >= HEARTBEAT_NS:
            self._beat_ns, at_ns = self._now_ns, self._base_ns + self._now_ns
            self.events.append(Heartbeat(at_ns, at_ns + WALL_OFFSET_NS, 0, self._index))

    # -- a step -------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        decodes = [each for each in self._running if each.computed >= each.request.prompt]
        chunks = self._chunks(TOKEN_BUDGET - len(decodes))
        enters = [each for each in decodes if not each.joined]
        tokens = {each.slot: 1 for each in decodes} | {each.slot: chunk for each, chunk in chunks}
        reads = {each.slot: each.computed for each in decodes}
        works = {each.slot: chunk * each.computed + chunk * chunk // 2 for each, chunk in chunks}
        features = Features(len(tokens), len(tokens), sum(tokens.values()), sum(reads.values()), sum(works.values()))
        start_ns = self._now_ns + DISPATCH_NS
        self.spans.append(Span(self._now_ns, start_ns, round(IDLE_W * 1_000), ()))
        length_ns, power_mw, shares = self._physics(features, tokens, reads, works)
        self._now_ns = start_ns + length_ns
        self._index += 1
        step = Step(
            self._index,
            self._base_ns + start_ns,
            self._base_ns + self._now_ns,
            tuple(self._leaves),
            tuple((each.slot, each.computed) for each in enters),
            tuple((each.slot, chunk, each.computed) for each, chunk in chunks),
        )
        self._leaves = []
        self.events.append(step)
        load = Load(length_ns, length_ns, features.tokens, features.context, features.attention, 1.0)
        self.spans.append(Span(start_ns, self._now_ns, power_mw, tuple(shares.items()), load))
        for each in [*decodes, *(each for each, _ in chunks)]:
            each.uj += shares[each.slot] * power_mw * length_ns / 1e6
            each.joined = each.computed >= each.request.prompt
            each.computed += tokens[each.slot]
            each.made += each.computed >= each.request.prompt
            if each.made >= each.request.output:
                self._finish(each)
        self._beat()

    def _chunks(self, budget: int) -> list[tuple[_Running, int]]:
        chunks = []
        prefilling = [each for each in self._running if each.computed < each.request.prompt]
        while budget > 0 and (prefilling or (self._waiting and len(self._running) < MAX_RUNNING)):
            if not prefilling:
                prefilling.append(self._waiting.pop(0))
                self._running.append(prefilling[0])
            each = prefilling.pop(0)
            chunk = min(budget, each.request.prompt - each.computed)
            budget -= chunk
            chunks.append((each, chunk))
        return chunks

    def _physics(
        self, step: Features, tokens: dict[int, int], reads: dict[int, int], works: dict[int, int]
    ) -> tuple[int, int, dict[int, float]]:
        """Length (ns), power (mW), and each slot's part of the energy: what is static follows time, the rest is use."""
        c = COEFFICIENTS
        seconds = c.launch + max(c.token * step.tokens, c.weights) + c.context * step.context
        seconds += c.attention * step.attention + c.sequence * step.sequences
        seconds *= math.exp(self._rng.gauss(0, TIME_NOISE))
        warm = 1 + WARM_SHARE * (1 - math.exp(-self._now_ns / NS_PER_S / WARM_S))
        weights_j = SHAPE.weight_bytes * J_PER_BYTE / step.sequences
        token_j = 2 * SHAPE.active_params * J_PER_FLOP
        context_j = SHAPE.kv_bytes_per_token * J_PER_BYTE
        work_j = 4 * SHAPE.layers * SHAPE.heads * SHAPE.head_size * J_PER_FLOP
        # What time is shared by is the game's own Shapley value, listed, and not the product's formula for it.
        common, _ = shapley_of_common(np.array(list(tokens.values())), GAME, ORDERS, self._orders)
        priced = {
            slot: common[place] + c.context * reads.get(slot, 0) + c.attention * works.get(slot, 0)
            for place, slot in enumerate(tokens)
        }
        static_j = STATIC_W * warm * seconds / sum(priced.values())
        used = {
            slot: static_j * priced[slot]
            + weights_j
            + token_j * count
            + context_j * reads.get(slot, 0)
            + work_j * works.get(slot, 0)
            for slot, count in tokens.items()
        }
        total = sum(used.values())
        watts = min(LIMIT_W, total / seconds * math.exp(self._rng.gauss(0, POWER_NOISE)))
        return round(seconds * NS_PER_S), round(watts * 1_000), {slot: each / total for slot, each in used.items()}

    def _finish(self, each: _Running) -> None:
        self._running.remove(each)
        if each.joined:
            self._leaves.append(each.slot)
        at_ns = self._base_ns + self._now_ns
        self.events.append(SequenceFinished(each.slot, at_ns, self._index, "stop", each.made))
        self.done.append(Done(each.key, each.made, each.uj, each.request.arrived_s))


def serve(seed: int, rate: float, seconds: float, *, base_ns: int, device: str, trace: Path | None = None) -> Served:
    """Requests at *rate* a second for some seconds, served to the end."""
    return Server(requests(seed, rate, seconds, trace), seed + 1, base_ns, device).run()
