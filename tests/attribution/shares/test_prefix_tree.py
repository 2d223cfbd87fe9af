"""The true-up of the prefix cache: the fixed-tree rule, its axioms, and that it moves time without making any."""

from fractions import Fraction
from itertools import permutations
from unittest.mock import patch

from attributed import attribute, by_engine, check
from costtrace_lab.engines import Profile, random_life
from hypothesis import given
from hypothesis import strategies as st

from costtrace.attribution.engine import Policy
from costtrace.attribution.shares.prefix_tree import PrefixTree
from costtrace.capture.prefix_numbers import PrefixNumbers
from costtrace.core.events import PrefixPath, SequenceAdded
from costtrace.core.units import NS_PER_S

BLOCK = 16
seeds = st.integers(0, 100_000)
profiles = st.sampled_from(
    [
        Profile(documents=2, cached=0.8),
        Profile(documents=1, cached=1.0, several=0.6, depth=2),
        Profile(documents=3, cached=0.9, preempt=0.2, abort=0.15, arrivals=1.2),
        Profile(documents=2, cached=0.9, speculative=1.0, stop_string=0.5),
    ]
)
TREE = Policy("roofline", prefix_sharing="tree")


@st.composite
def forests(draw):
    """Prompts (document, blocks) in order of arrival; each finds what those before it computed of its document."""
    prompts = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5)), min_size=1, max_size=5))
    costs = draw(st.lists(st.integers(0, 10**12), min_size=25, max_size=25))
    return prompts, costs


def shapley(players, cost):
    """By its definition: the mean over all orders of what each adds."""
    orders = list(permutations(players))
    value = dict.fromkeys(players, Fraction(0))
    for order in orders:
        before = Fraction(0)
        for i, player in enumerate(order):
            now = cost(frozenset(order[: i + 1]))
            value[player] += (now - before) / len(orders)
            before = now
    return value


@given(forests())
def test_it_is_the_shapley_value_of_the_tree_game(forest):
    prompts, costs = forest
    numbers, tree, computed, uses, paid = PrefixNumbers(BLOCK), PrefixTree(), {}, {}, {}
    for slot, (document, blocks) in enumerate(prompts, 1):
        names = [(document, block) for block in range(blocks)]
        known = computed.get(document, 0)
        cached = min(known, blocks)
        path = numbers.path(slot, 0, names, cached * BLOCK)
        if path is not None:
            tree.path(path)
        paid[slot] = 0
        for block in range(cached, blocks):  # a chunk each: what a block costs is then known exactly
            cost = costs[(document * 5 + block) % len(costs)]
            tree.begin(slot, BLOCK, block * BLOCK)
            tree.charged(slot, 0, cost)
            paid[slot] += cost
        computed[document] = max(known, blocks)
        uses[slot] = {(document, block): costs[(document * 5 + block) % len(costs)] for block in range(blocks)}

    transfers = tree.true_up({slot: f"record-{slot}" for slot in paid})

    def cost_of(coalition):
        return sum({name: cost for slot in coalition for name, cost in uses[slot].items()}.values())

    assert all(sum(amounts[meter] for amounts in transfers.values()) == 0 for meter in range(3))
    fair = shapley(list(paid), cost_of)
    for slot, charged in paid.items():
        pays = charged + transfers.get(slot, [0, 0, 0])[0]
        assert abs(pays - fair[slot]) < 25 * len(paid)  # each node's remainder stays with who computed it


def test_sequences_of_one_request_are_one_user():
    numbers, tree = PrefixNumbers(BLOCK), PrefixTree()
    names = [("d", block) for block in range(4)]
    for slot, cached in ((1, 0), (2, 64), (3, 64), (4, 64)):
        tree.path(numbers.path(slot, 0, names, cached))
    tree.begin(1, 64, 0)
    tree.charged(1, 0, 900)
    record_of = {1: "a", 2: "a", 3: "b", 4: "b"}
    assert tree.true_up(record_of) == {1: [-450, 0, 0], 3: [450, 0, 0]}


def test_what_nobody_else_finds_stays_where_it_is_and_a_later_window_reads_for_nothing():
    numbers, tree = PrefixNumbers(BLOCK), PrefixTree()
    names = [("d", block) for block in range(4)]
    tree.path(numbers.path(1, 0, names, 0))
    tree.begin(1, 70, 0)
    tree.charged(1, 0, 700)
    assert tree.true_up({1: "a"}) == {}
    tree.path(numbers.path(2, 0, names, 64))
    assert tree.true_up({1: "a", 2: "b"}) == {}


def test_only_the_blocks_that_were_found_are_shared_and_a_chunk_by_its_tokens():
    numbers, tree = PrefixNumbers(BLOCK), PrefixTree()
    names = [("d", block) for block in range(4)]
    tree.path(numbers.path(1, 0, names, 0))
    tree.path(numbers.path(2, 0, names, 32))
    tree.begin(1, 80, 0)  # 16 tokens behind the last whole block: nobody can find those
    tree.charged(1, 0, 800)
    tree.charged(1, 1, 80)
    assert tree.true_up({1: "a", 2: "b"}) == {1: [-160, -16, 0], 2: [160, 16, 0]}


def test_a_path_of_two_writers_is_paid_to_both():
    numbers, tree = PrefixNumbers(BLOCK), PrefixTree()
    names = [("d", block) for block in range(4)]
    tree.path(numbers.path(1, 0, names[:2], 0))
    tree.path(numbers.path(2, 0, names, 32))
    tree.path(numbers.path(3, 0, names, 64))
    for slot, context in ((1, 0), (2, 32)):
        tree.begin(slot, 32, context)
        tree.charged(slot, 0, 300)
    assert tree.true_up({1: "a", 2: "b", 3: "c"}) == {1: [-200, 0, 0], 2: [-50, 0, 0], 3: [250, 0, 0]}


def test_blocks_computed_again_after_an_eviction_are_new_ones_with_a_new_cost():
    numbers, tree = PrefixNumbers(BLOCK), PrefixTree()
    names = [("d", block) for block in range(2)]
    for slot, cached in ((1, 0), (2, 0), (3, 32)):
        tree.path(numbers.path(slot, 0, names, cached))
    for slot in (1, 2):
        tree.begin(slot, 32, 0)
        tree.charged(slot, 0, 100)
    assert tree.true_up({1: "a", 2: "b", 3: "c"}) == {2: [-50, 0, 0], 3: [50, 0, 0]}


def test_what_a_preempted_sequence_computes_again_is_its_own_affair():
    numbers, tree = PrefixNumbers(BLOCK), PrefixTree()
    names = [("d", block) for block in range(2)]
    tree.path(numbers.path(1, 0, names, 0))
    tree.path(numbers.path(2, 0, names, 32))
    for _ in range(2):
        tree.begin(1, 32, 0)
        tree.charged(1, 0, 100)
    assert tree.true_up({1: "a", 2: "b"}) == {1: [-50, 0, 0], 2: [50, 0, 0]}


def test_blocks_that_are_no_longer_remembered_are_nobodys():
    numbers = PrefixNumbers(BLOCK, most=2)
    first = numbers.path(1, 0, ["a", "b", "c"], 0)
    assert (first.own_first, first.own, first.found) == (1, 3, ())
    second = numbers.path(2, 0, ["a", "b", "c", "d"], 48)
    assert second.found == ((0, 1), (2, 2))
    assert numbers.path(3, 0, ["x", "y"], 32) is None


# -- on the whole attribution ------------------------------------------------------------------------------------------


@given(seeds, profiles, st.sampled_from([1, 2]), st.sampled_from([NS_PER_S // 10, NS_PER_S, 60 * NS_PER_S]))
def test_rows_add_up_in_every_window_and_no_time_is_made_or_lost(seed, profile, devices, window_ns):
    life = random_life(seed, rounds=60, profile=profile, devices=tuple(f"GPU-{n}" for n in range(devices)))
    rows, engines = attribute({life.engine_id: life.events}, policy=TREE, window_ns=window_ns)
    check(rows, engines)
    keys = {event.request_key for event in life.events if isinstance(event, SequenceAdded)}
    assert sorted(record.request_key for record in rows.records) == sorted(keys)
    for record in rows.records:
        assert 0 <= record.wasted_ns <= record.gpu_ns
        assert record.prefill_ns >= 0
    assert abs(sum(record.prefix_ns for record in rows.records)) <= len(rows.records)
    for posting in rows.postings:
        assert posting.prefill_ns >= 0
        assert posting.decode_ns >= 0


@given(seeds, profiles)
def test_only_prefill_of_requests_that_share_moves(seed, profile):
    life = random_life(seed, rounds=60, profile=profile)
    plain = {r.record_id: r for r in attribute({life.engine_id: life.events}, window_ns=60 * NS_PER_S)[0].records}
    rows, _ = attribute({life.engine_id: life.events}, policy=Policy(prefix_sharing="tree"), window_ns=60 * NS_PER_S)
    shares = {event.slot for event in life.events if isinstance(event, PrefixPath) and any(n for n, _ in event.found)}
    for record in rows.records:
        before = plain[record.record_id]
        assert abs(record.decode_ns - before.decode_ns) <= 2
        assert abs(record.prefill_ns - before.prefill_ns - record.prefix_ns) <= 3
    assert any(record.prefix_ns for record in rows.records) <= bool(shares)


@given(seeds, profiles, st.randoms(use_true_random=False))
def test_a_state_that_is_saved_and_restored_anywhere_goes_on_to_the_same_rows(seed, profile, rng):
    lives = {(life := random_life(seed, rounds=30, profile=profile)).engine_id: life.events}
    restored = attribute(lives, sweep_at=lambda _: rng.random() < 0.2, save=True, policy=TREE)
    assert by_engine(restored[0]) == by_engine(attribute(lives, policy=TREE)[0])


@given(seeds, profiles, st.floats(0, 1))
def test_an_engine_that_is_killed_anywhere_leaves_a_bill_that_adds_up(seed, profile, where):
    life = random_life(seed, rounds=40, profile=profile)
    events = life.upto(3 + int(where * (len(life.events) - 3)))
    rows, engines = attribute({life.engine_id: events}, policy=TREE)
    check(rows, engines)
    keys = {event.request_key for event in events if isinstance(event, SequenceAdded)}
    assert sorted(record.request_key for record in rows.records) == sorted(keys)


@given(seeds, profiles, st.integers(1, 5))
def test_with_many_waiting_what_they_share_is_settled_before_the_window_ends(seed, profile, most):
    life = random_life(seed, rounds=60, profile=profile)
    with patch("costtrace.attribution.engine.MOST_WAITING", most):
        rows, engines = attribute({life.engine_id: life.events}, policy=TREE, window_ns=60 * NS_PER_S)
    check(rows, engines)
    keys = {event.request_key for event in life.events if isinstance(event, SequenceAdded)}
    assert sorted(record.request_key for record in rows.records) == sorted(keys)
    assert all(posting.prefill_ns >= 0 for posting in rows.postings)
    assert abs(sum(record.prefix_ns for record in rows.records)) <= len(rows.records)


def test_readers_pay_and_writers_are_relieved_on_a_life_with_much_to_share():
    life = random_life(11, rounds=300, profile=Profile(documents=1, cached=1.0, arrivals=1.0))
    rows, _ = attribute({life.engine_id: life.events}, policy=TREE, window_ns=60 * NS_PER_S)
    moved = [record.prefix_ns for record in rows.records]
    assert min(moved) < 0 < max(moved)
