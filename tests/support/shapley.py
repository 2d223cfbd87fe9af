"""The Shapley value by its definition: every subset of the players. Slow, and nothing to be wrong about."""

from math import factorial

from costtrace.attribution.steps.cost_model import Features, cover, expert_units, more_beyond_knee, roofline_prices


def shapley(players, cost):
    """Each player's mean marginal cost over all orders; *cost* of a subset, given as a bit mask."""
    worth = [cost(subset) for subset in range(1 << players)]
    weight = [factorial(k) * factorial(players - k - 1) / factorial(players) for k in range(players)]
    value = [0.0] * players
    for subset in range(1 << players):
        before = weight[subset.bit_count()] if subset.bit_count() < players else 0.0
        for player in range(players):
            if not subset >> player & 1:
                value[player] += before * (worth[subset | 1 << player] - worth[subset])
    return value


def game(c, batch):
    """The modelled cost of every subset of a batch of (tokens, context, attention)."""

    def cost(subset):
        inside = [who for place, who in enumerate(batch) if subset >> place & 1]
        if not inside:
            return 0.0
        tokens, context, attention = (sum(column) for column in zip(*inside, strict=True))
        read = c.weights * cover(c, tokens)
        rest = c.context * context + c.attention * attention + c.sequence * len(inside)
        rest += c.prompt if attention else 0.0
        rest += c.decode if any(not who[2] for who in inside) else 0.0
        return c.launch + max(c.token * tokens, read) + rest

    return cost


def priced(c, batch, prices_of=roofline_prices):
    """What each of a batch pays by the closed form."""
    tokens = sum(who[0] for who in batch)
    one = expert_units(c.expert_miss, 1, tokens) if c.expert_part else 1.0
    units = [expert_units(c.expert_miss, who[0], tokens) / one if c.expert_part else 0.0 for who in batch]
    totals = [sum(column) for column in zip(*batch, strict=True)]
    prompts = sum(1 for who in batch if who[2])
    more = more_beyond_knee(c, [who[0] for who in batch], 0) if prices_of is roofline_prices else {}
    beyond = [more.get(who[0], 0.0) for who in batch]
    p = prices_of(c, Features(len(batch), len(batch), *totals, 0, sum(units), prompts, sum(beyond)))
    return [
        p.head
        + p.sequence
        + p.token * tok
        + p.context * ctx
        + p.attention * att
        + p.expert * unit
        + (p.prompt if att else p.decode)
        + p.beyond * more
        for (tok, ctx, att), unit, more in zip(batch, units, beyond, strict=True)
    ]


def misplaced(truth, shares):
    """The part of the money that is with the wrong payer."""
    return sum(abs(a - b) for a, b in zip(truth, shares, strict=True)) / 2 / sum(truth)
