"""The measured game: what any coalition of a step's requests would have taken, and its Shapley value.

A step of a simulated journal is a game: its players are the requests in it, and a coalition costs what the step times
say of a step with only them. That cost is a sum, and by additivity so is its Shapley value:

    common      what the tokens and the number of players cost: exact, by the subsets of those with more than one token
                (all others are alike, so that only how many of them there are counts)
    decoding    what the decodes' attention costs: sampled, in pairs of an order and its reverse
    prefill     once for a step with chunks, and what each chunk adds: exact, in closed form

Sampling (and of `common` too, where the subsets are too many) leaves a standard error that is reported beside every
figure.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from costtrace_lab.simulator.kernel_tables import CAPTURED, KernelTables

from costtrace.core.events import SequenceAdded, SequenceFinished, Step


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


SUBSETS = 1 << 17
"""Of those with more than one token, times the numbers of those with one: beyond, they are sampled."""


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
        self.prefill_s = times.prefill_s

    def chunk(self, tokens, context):
        return self._times.chunk(tokens, context)

    def common(self, count, tokens):
        """Of coalitions that are not empty, what does not depend on what their tokens are for."""
        return self._times.host_s + self._layers[self._pad[tokens]] + self._logits[count]

    def decoding(self, decodes, context):
        """Attention of decodes."""
        mean = context / np.maximum(decodes, 1)
        right = np.clip(np.searchsorted(self._knots, mean, side="right"), 1, len(self._knots) - 1)
        x0, x1 = self._knots[right - 1], self._knots[right]
        y0, y1 = self._decode[decodes, right - 1], self._decode[decodes, right]
        return np.where(mean <= self._knots[0], self._decode[decodes, 0], y0 + (y1 - y0) * (mean - x0) / (x1 - x0))


class RooflineGame:
    """Coalitions by the analytic model: the family that costtrace fits."""

    family = "analytic roofline: the same family as the fitted model"

    def __init__(self, times):
        self._c = times.coefficients
        self.prefill_s = times.coefficients.prompt

    def chunk(self, tokens, context):
        return self._c.attention * (tokens * context + tokens * tokens // 2)

    def common(self, count, tokens):
        c = self._c
        return c.launch + np.maximum(c.token * tokens, c.weights) + c.sequence * count

    def decoding(self, decodes, context):
        return self._c.context * context + self._c.decode * (decodes > 0)


def game_of(times):
    return TablesGame(times) if isinstance(times, KernelTables) else RooflineGame(times)


def seconds(game, count, tokens, decodes, context, chunk):
    """Of coalitions that are not empty: the sum of a game's parts."""
    chunks = np.where(count > decodes, game.prefill_s, 0.0) + chunk
    return game.common(count, tokens) + game.decoding(decodes, context) + chunks


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
    values, variance = shapley_of_common(players.tokens, game, pairs, rng)
    values += players.chunk
    decodes = players.decodes == 1
    if chunks := int((~decodes).sum()):
        values[~decodes] += game.prefill_s / chunks
    if decodes.any():
        ones = np.ones(int(decodes.sum()), dtype=np.int64)
        own, spread = sampled(game.decoding, (ones, players.context[decodes]), pairs, rng)
        values[decodes] += own
        variance[decodes] += spread
    return values, variance


def shapley_of_common(tokens, game, pairs, rng):
    """Of what tokens and players cost: exact wherever the coalitions can be listed."""
    large = np.flatnonzero(tokens > 1)
    size, ones = len(tokens), len(tokens) - len(large)
    if (ones + 1) << len(large) > SUBSETS:
        return sampled(game.common, (np.ones(size, dtype=np.int64), tokens), pairs, rng)
    members, before, one_more = chances(len(large), ones)
    sums = members @ tokens[large]
    count = members.sum(axis=1)[:, None] + np.arange(ones + 1)[None, :]
    costs = game.common(count, sums[:, None] + np.arange(ones + 1)[None, :])
    costs[0, 0] = 0.0
    values = np.empty(size)
    subsets = np.arange(1 << len(large))
    for place, player in enumerate(large):
        without = subsets[(subsets >> place) & 1 == 0]
        values[player] = ((costs[without | 1 << place] - costs[without]) * before[without]).sum()
    if ones:
        values[tokens == 1] = (np.diff(costs, axis=1) * one_more).sum()
    return values, np.zeros(size)


@lru_cache(maxsize=4_096)
def chances(large, ones):
    """Of *large* players who differ and *ones* who are alike: all subsets of the former, as rows of 0 and 1; and that
    one of them with so many of the latter are before a given one of the former, and before a given one of the latter.
    """
    members = (np.arange(1 << large)[:, None] >> np.arange(large)[None, :]) & 1
    size = large + ones
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])
    there = members.sum(axis=1)[:, None]

    def chance(others):
        k = np.arange(others + 1)[None, :]
        before, after = there + k, size - 1 - there - k
        ways = logs[others] - logs[k] - logs[others - k]
        return np.where(after < 0, 0.0, np.exp(ways + logs[before] + logs[np.maximum(after, 0)] - logs[size]))

    return members, chance(ones), chance(ones - 1) if ones else None


def sampled(cost, columns, pairs, rng):
    """Estimates of the Shapley values of *cost*, a function of sums of the players' *columns*, and their variances."""
    size = len(columns[0])
    if size == 1:
        return cost(*columns), np.zeros(1)
    orders = rng.permuted(np.broadcast_to(np.arange(size), (pairs, size)), axis=1)
    orders = np.concatenate([orders, orders[:, ::-1]])
    # What is there as soon as anybody is, is everybody's alike (the Shapley value of a constant): it is taken out
    # before sampling, which changes no expectation, whatever the constant, and takes most of the variance away.
    alone, costs = cost(*columns), cost(*(np.cumsum(column[orders], axis=1) for column in columns))
    least = min(float(alone.min()), max(0.0, float(alone.sum() - costs[0, -1]) / (size - 1)))
    costs -= least
    marginals = np.diff(costs, axis=1, prepend=0.0)
    by_player = np.empty_like(marginals)
    np.put_along_axis(by_player, orders, marginals, axis=1)
    pair = (by_player[:pairs] + by_player[pairs:]) / 2
    return pair.mean(axis=0) + least / size, pair.var(axis=0, ddof=1) / pairs if pairs > 1 else np.zeros(size)


def shapley(events, game, slots, *, pairs=8, seed=1, pauses=()):
    """The truth of a journal. A step's values are scaled to the time that it took; a pause is its players' equally.

    (A pause does not depend on who is in the step: every player is as likely to be the first.)
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
