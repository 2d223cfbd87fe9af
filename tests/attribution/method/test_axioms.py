"""The axioms of docs/method/paper.md section 11, on whole lives of an engine whose model is being learned meanwhile."""

from collections import defaultdict

from attributed import attribute, by_engine, check
from costtrace_lab.engines import Profile, random_life
from costtrace_lab.engines.schedules import header, started
from hypothesis import given, settings
from hypothesis import strategies as st

from costtrace.attribution.engine import Policy
from costtrace.core.events import EngineReady, EngineStopped, SequenceAdded, SequenceFinished, Step
from costtrace.core.units import NS_PER_MS, NS_PER_S

T0 = 10 * NS_PER_S
COUNT = 5
uses = st.one_of(
    st.none(),  # it sits the step out
    st.tuples(st.just(1), st.integers(10, 5_000)),  # (tokens, context): a decode with the prompt behind it
    st.tuples(st.integers(2, 2_000), st.integers(0, 3_000)),
)
lives = st.lists(
    st.tuples(st.integers(1, 50), st.lists(uses, min_size=COUNT, max_size=COUNT)), min_size=1, max_size=150
)
"""By step: its length in ms, and what each of five requests does in it."""
methods = st.sampled_from(["auto", "roofline", "affine", "tokens", "equal"])


def bill(life, *, order=range(COUNT), names=None, policy=Policy()):  # noqa: B008 - immutable
    """Usage records by request. *order*: in which the participants are listed in each step, and get their slots."""
    order = list(order)
    names = names or {who: f"r{who}" for who in order}
    events = [header("e", T0), started(("GPU-0",), T0), EngineReady(T0)]
    for slot, who in enumerate(order):
        key = names[who]
        events.append(SequenceAdded(slot, T0, f"s{slot}", key, key, f"s{slot}", 1 << 20, "m", "ant", "header"))
    now = T0
    for index, (length, uses) in enumerate(life):
        items = tuple((slot, *uses[who]) for slot, who in enumerate(order) if uses[who] is not None)
        events.append(Step(index, now, now + length * NS_PER_MS, (), (), items))
        now += length * NS_PER_MS
    events += [SequenceFinished(slot, now, len(life) - 1, "stop", 1) for slot, _ in enumerate(order)]
    rows, engines = attribute(
        {"e": [*events, EngineStopped(now)]}, policy=policy or Policy(), window_ns=3_600 * NS_PER_S
    )
    check(rows, engines)
    return {record.request_key: record.gpu_ns for record in rows.records}


def close(life):
    """What float rounding may move: a few parts in 2**40 of all steps, and the rounding of a bill to whole ns."""
    return 3 + sum(length for length, _ in life) * NS_PER_MS // 2**40


@settings(max_examples=40)
@given(lives, st.permutations(range(COUNT)), methods)
def test_the_order_in_which_requests_come_and_stand_does_not_matter(life, order, method):
    one, other = bill(life, policy=Policy(method)), bill(life, order=order, policy=Policy(method))
    assert all(abs(one[name] - other[name]) <= close(life) for name in one)


@settings(max_examples=40)
@given(lives, methods)
def test_who_uses_the_same_pays_the_same(life, method):
    twins = [(length, [uses[0], uses[0], *uses[2:]]) for length, uses in life]
    used = bill(twins, policy=Policy(method))
    assert abs(used["r0"] - used["r1"]) <= close(life)


@settings(max_examples=40)
@given(lives, methods)
def test_who_is_in_no_step_pays_nothing_and_changes_nobodys_bill(life, method):
    without = [(length, [*uses[:-1], None]) for length, uses in life]
    used = bill(without, policy=Policy(method))
    assert used[f"r{COUNT - 1}"] == 0
    alone = bill(without, order=range(COUNT - 1), policy=Policy(method))
    assert {name: used[name] for name in alone} == alone


@settings(max_examples=40)
@given(lives)
def test_whoever_sends_two_sequences_as_two_requests_pays_as_much_or_more(life):
    """At the same prices for work: they pay one head fee more. Nothing else changes."""
    together = bill(life, names={**{who: f"r{who}" for who in range(COUNT)}, 1: "r0"})
    apart = bill(life)
    assert apart["r0"] + apart["r1"] >= together["r0"] - close(life)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_a_journal_that_is_cut_anywhere_gives_the_same_rows_while_the_model_learns(seed, rng):
    life = random_life(seed, rounds=150, profile=Profile(depth=2, arrivals=0.8))
    whole, _ = attribute({life.engine_id: life.events})
    cut, _ = attribute({life.engine_id: life.events}, sweep_at=lambda _: rng.random() < 0.03, save=True)
    assert by_engine(cut) == by_engine(whole)
    paid, by_window = defaultdict(int), defaultdict(int)
    for posting in whole.postings:
        paid[posting.record_id] += posting.gpu_ns
        by_window[posting.window_ns] += posting.gpu_ns
    assert sum(paid.values()) == sum(by_window.values())
