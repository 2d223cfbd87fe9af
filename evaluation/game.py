"""The measured game: what any coalition of a step's requests would have taken, and its Shapley value.

A step of a simulated journal is a game: its players are the requests in it, and a coalition costs what the step times
say of a step with only them. Shapley values are estimated by sampling orders in pairs (an order and its reverse),
which leaves a standard error that is reported beside every figure.
"""

from typing import NamedTuple

import numpy as np

from costtrace.events import SequenceAdded, SequenceFinished, Step
from costtrace.simulator.kernel_tables import CAPTURED, KernelTables


class Players(NamedTuple):
    """Who is in a step, as arrays."""

    slots: np.ndarray
    tokens: np.ndarray
    decodes: np.ndarray
    """1 for a decode, 0 for a prefill chunk."""
    context: np.ndarray
    """KV tokens that a decode reads."""
    chunk: np.ndarray
    """Of a prefill chunk, what is additive in it: seconds of attention."""


class TablesGame:
    """Coalitions by kernel tables: the same numbers as `KernelTables.seconds`, for arrays."""

    family = "kernel tables: interpolated measurements, no formula of costtrace's"

    def __init__(self, times):
        self._times = times
        self._layers = np.array(times.layers_s)
        self._logits = np.array(times.logits_s)
        self._knots = np.array(times.contexts)
        self._decode = np.array(times.decode_s)
        tokens = np.arange(len(self._layers))
        padded = np.array(CAPTURED)[np.minimum(np.searchsorted(CAPTURED, tokens), len(CAPTURED) - 1)]
        self._pad = np.where(tokens > CAPTURED[-1], tokens, padded) if times.padded else tokens
        self._pad[0] = 0

    def chunk(self, tokens, context):
        return self._times.chunk(tokens, context)

    def seconds(self, count, tokens, decodes, context, chunk):
        """Of coalitions that are not empty."""
        mean = context / np.maximum(decodes, 1)
        right = np.clip(np.searchsorted(self._knots, mean, side="right"), 1, len(self._knots) - 1)
        x0, x1 = self._knots[right - 1], self._knots[right]
        y0, y1 = self._decode[decodes, right - 1], self._decode[decodes, right]
        attention = np.where(mean <= self._knots[0], self._decode[decodes, 0], y0 + (y1 - y0) * (mean - x0) / (x1 - x0))
        chunks = np.where(count > decodes, self._times.prefill_s, 0.0) + chunk
        return self._times.host_s + self._layers[self._pad[tokens]] + self._logits[count] + attention + chunks


class RooflineGame:
    """Coalitions by the analytic model: the family that costtrace fits."""

    family = "analytic roofline: the same family as the fitted model"

    def __init__(self, times):
        self._c = times.coefficients

    def chunk(self, tokens, context):
        return self._c.attention * (tokens * context + tokens * tokens // 2)

    def seconds(self, count, tokens, decodes, context, chunk):
        c = self._c
        fixed = c.launch + c.prompt * (count > decodes)
        return fixed + np.maximum(c.token * tokens, c.weights) + c.context * context + c.sequence * count + chunk


def game_of(times):
    return TablesGame(times) if isinstance(times, KernelTables) else RooflineGame(times)


class Truth(NamedTuple):
    """Shapley values of a whole journal, by slot."""

    seconds: np.ndarray
    variance: np.ndarray
    """Of the estimate."""
    steps: int
    mean_batch: float
    worst_gap: float
    """Largest relative difference of a step's recorded time to what the game says of everybody in it."""


def batches(events, game):
    """(step, its players) of a journal's events, from the differences that it records."""
    prompts, outputs, cohort = {}, {}, {}
    for event in events:
        if isinstance(event, SequenceAdded):
            prompts[event.slot] = event.prompt_tokens
        elif isinstance(event, SequenceFinished):
            outputs.pop(event.slot, None)
        elif isinstance(event, Step):
            for slot in event.leaves:
                del cohort[slot]
            cohort.update(event.enters)
            yield event, _players(event, cohort, prompts, game)
            for slot in cohort:
                cohort[slot] += 1


def _players(step, cohort, prompts, game):
    # A prefill item is one that begins within its prompt. (A preempted sequence's recomputed output counts as a decode
    # of many tokens: the evaluation's loads preempt nobody.)
    chunks = [(s, t, 0, 0, game.chunk(t, c)) for s, t, c in step.items if c < prompts[s]]
    drafted = [(s, t, 1, c, 0.0) for s, t, c in step.items if c >= prompts[s]]
    decodes = [(slot, 1, 1, context, 0.0) for slot, context in cohort.items()]
    columns = list(zip(*(*decodes, *drafted, *chunks), strict=True))
    whole = [np.array(column, dtype=np.int64) for column in columns[:4]]
    return Players(*whole, np.array(columns[4]))


def shapley_of_step(players, game, pairs, rng):
    """Estimates and their variances, by player. Sums to the cost of everybody, exactly but for rounding."""
    size = len(players.slots)
    if size == 1:
        return _cost(players, game)[None], np.zeros(1)
    orders = rng.permuted(np.broadcast_to(np.arange(size), (pairs, size)), axis=1)
    orders = np.concatenate([orders, orders[:, ::-1]])
    sums = [np.cumsum(column[orders], axis=1) for column in players[1:]]
    # Whatever any coalition costs at least is everybody's alike (the Shapley value of a constant): it is taken out
    # before sampling, which changes no expectation and takes most of the variance away.
    least = float(game.seconds(np.ones(size, dtype=np.int64), *players[1:]).min())
    costs = game.seconds(np.arange(1, size + 1)[None, :], *sums) - least
    marginals = np.diff(costs, axis=1, prepend=0.0)
    by_player = np.empty_like(marginals)
    np.put_along_axis(by_player, orders, marginals, axis=1)
    pair = (by_player[:pairs] + by_player[pairs:]) / 2
    return pair.mean(axis=0) + least / size, pair.var(axis=0, ddof=1) / pairs if pairs > 1 else np.zeros(size)


def _cost(players, game):
    sums = [np.array(column.sum()) for column in players[1:]]
    return game.seconds(np.array(len(players.slots)), *sums)


def shapley(events, game, slots, *, pairs=8, seed=1, pauses=()):
    """The truth of a journal. A step's values are scaled to the time that it took; a pause is its players' equally.

    (A pause is there whoever is in the step: every player is as likely to be the first.)
    """
    rng = np.random.default_rng(seed)
    seconds, variance = np.zeros(slots + 1), np.zeros(slots + 1)
    steps, members, gap = 0, 0, 0.0
    for number, (step, players) in enumerate(batches(events, game)):
        values, spread = shapley_of_step(players, game, pairs, rng)
        whole = float(values.sum())
        took = (step.done_ns - step.scheduled_ns) * 1e-9
        pause = pauses[number] if len(pauses) else 0.0
        scale = (took - pause) / whole
        gap = max(gap, abs(scale - 1.0))
        seconds[players.slots] += values * scale + pause / len(values)
        variance[players.slots] += spread * scale * scale
        steps += 1
        members += len(values)
    return Truth(seconds, variance, steps, members / steps, gap)
