"""What a step model learns from steps: coefficients, knee, outliers, changes, and when it is believed."""

import random
from itertools import pairwise

import msgspec
import pytest

from costtrace.attribution.steps.cost_model import (
    GENERIC_SHAPE,
    Coefficients,
    Features,
    affine_prices,
    cover,
    prior,
    roofline_prices,
    step_total,
)
from costtrace.attribution.steps.device_peaks import peak_of
from costtrace.attribution.steps.engine_fit import fit_row
from costtrace.attribution.steps.fit import WARM, StepFit
from costtrace.attribution.steps.fit_sums import KNEES, SHARED, Sums
from costtrace.attribution.steps.least_squares import objective, solve

H100 = peak_of("NVIDIA H100 80GB HBM3", "gpu")
TRUTH = Coefficients(1.1e-3, 2.3e-5, 5.4e-3, 5.2e-8, 9e-10, 9e-6)
"""An engine that is less efficient than its device's peaks, unevenly: the prior is off by 1.1 to 1.9."""


def fresh(*, known=True):
    start = prior(GENERIC_SHAPE, "gpu", 1, H100)
    assert start is not None
    return StepFit(start, known=known, device=H100.name)


def took(c, step):
    read = c.weights * cover(c, step.tokens)
    rest = c.context * step.context + c.attention * step.attention + c.sequence * step.sequences
    rest += c.prompt if step.prompts else 0.0
    rest += c.decode if step.sequences > step.prompts else 0.0
    return c.launch + max(c.token * step.tokens, read) + rest


def schedule(steps, seed=1):
    """Decoding with a changing batch, and now and then a prefill chunk: (features, nobody came or went)."""
    rng = random.Random(seed)
    batch, each = 32, 1_000
    for _ in range(steps):
        steady = rng.random() > 0.15
        if not steady:
            batch = max(1, min(256, batch + rng.choice((-10, -3, -1, 1, 3, 10))))
            each = rng.randint(300, 3_000)
        if rng.random() < 0.12:
            chunk = rng.choice((64, 200, 512, 1_500, 2_000))
            yield Features(batch + 1, batch + 1, batch + chunk, batch * each, chunk * chunk // 2, prompts=1), False
        else:
            yield Features(batch, batch, batch, batch * each, 0), steady


def learn(fit, times, plan):
    for index, ((step, steady), seconds) in enumerate(zip(plan, times, strict=True)):
        fit.observe(step, round(seconds * 1e9), steady=steady, index=index, method=fit.method("auto"))


def noisy(plan, c=TRUTH, noise=0.0, seed=2):
    rng = random.Random(seed)
    return [took(c, step) * (1 + rng.gauss(0, noise)) for step, _ in plan]


def share_error(fit, plan, truth=TRUTH):
    """Of the steps with a prefill chunk: how far its share is from the truth's, on average."""
    c, off = fit.coefficients("roofline"), []
    for step, _ in plan:
        if step.attention:
            shares = []
            for model in (c, truth):
                p = roofline_prices(model, step)
                chunk = step.tokens - step.sequences + 1
                whole = step_total(p, step)
                shares.append((p.head + p.sequence + p.token * chunk + p.attention * step.attention) / whole)
            off.append(abs(shares[0] - shares[1]))
    return sum(off) / len(off)


def test_a_hundred_steps_teach_it_to_within_three_per_cent_on_steps_it_has_not_seen():
    fit, plan = fresh(), list(schedule(100))
    learn(fit, noisy(plan), plan)
    unseen = list(schedule(500, seed=9))
    c = fit.coefficients("roofline")
    off = [abs(took(c, step) / took(TRUTH, step) - 1) for step, _ in unseen]
    assert sum(off) / len(off) < 0.03


def test_what_a_step_does_once_for_its_prompts_is_learned():
    truth, plan = TRUTH._replace(prompt=1.5e-3), list(schedule(3_000))
    fit = fresh()
    learn(fit, noisy(plan, truth, noise=0.02), plan)
    assert fit.coefficients("roofline").prompt == pytest.approx(truth.prompt, rel=0.2)
    without = fresh()
    learn(without, noisy(plan, noise=0.02), plan)
    assert without.coefficients("roofline").prompt < 0.2 * truth.prompt


def test_what_a_step_does_once_for_its_decodes_is_learned_as_soon_as_steps_without_any_were_seen():
    truth, mixed = TRUTH._replace(decode=1.5e-3), list(schedule(3_000))
    alone = [(Features(1, 1, chunk, 0, chunk * chunk // 2, prompts=1), False) for chunk in (64, 200, 512, 1_500)]
    plan = [step for number in range(30) for step in (*alone, *mixed[100 * number : 100 * (number + 1)])]
    fit, without, never = fresh(), fresh(), fresh()
    learn(fit, noisy(plan, truth, noise=0.02), plan)
    learn(without, noisy(plan, noise=0.02), plan)
    learn(never, noisy(mixed, truth, noise=0.02), mixed)
    learned = [each.coefficients("roofline") for each in (fit, without, never)]
    assert learned[0].decode == pytest.approx(truth.decode, rel=0.2)
    assert learned[1].decode < 0.2 * truth.decode
    # All its steps decode: what decodes cost cannot be separated from what every step costs.
    assert learned[2].decode < 0.2 * learned[2].launch


def test_sums_of_a_version_with_other_regressors_are_dropped():
    fit, plan = fresh(), list(schedule(200))
    learn(fit, noisy(plan), plan)
    old = msgspec.to_builtins(fit.sums[0])
    old["xy"] = old["xy"][:-1]
    kept = msgspec.convert(old, Sums)
    assert (len(kept.xy), len(kept.xx), kept.weight, kept.yy) == (SHARED, SHARED * SHARED, 0.0, 0.0)


def test_it_finds_the_knee_and_moves_little_money_under_noise():
    fit, plan = fresh(), list(schedule(3_000))
    learn(fit, noisy(plan, noise=0.05), plan)
    assert fit.knees[fit.knee] == pytest.approx(TRUTH.weights / TRUTH.token, rel=0.35)
    assert share_error(fit, plan) < 0.02
    assert fit.method("auto") == "roofline"


def test_pauses_of_the_host_do_not_pull_at_it():
    plan = list(schedule(3_000))
    quiet, disturbed = fresh(), fresh()
    times = noisy(plan, noise=0.03)
    rng = random.Random(5)
    learn(quiet, times, plan)
    learn(disturbed, [t * rng.choice((3, 10, 30)) if rng.random() < 0.01 else t for t in times], plan)
    assert disturbed.outliers > 5
    assert disturbed.changes == 0
    assert abs(share_error(disturbed, plan) - share_error(quiet, plan)) < 0.02


@pytest.mark.parametrize("noise", [0.03, 0.1])
def test_clocks_that_are_throttled_halfway_are_noticed_once_and_learned(noise):
    fit, plan = fresh(), list(schedule(4_000))
    times = noisy(plan, noise=noise)
    learn(fit, [t * 1.4 if place >= 2_000 else t for place, t in enumerate(times)], plan)
    assert fit.changes == 1
    slow = took(fit.coefficients("roofline"), plan[-1][0]) / took(TRUTH, plan[-1][0])
    assert slow == pytest.approx(1.4, rel=0.05)
    assert share_error(fit, plan) < 0.03


def test_noise_alone_is_no_change():
    for seed in range(5):
        for noise in (0.02, 0.1, 0.25):
            fit, plan = fresh(), list(schedule(3_000, seed=seed))
            learn(fit, noisy(plan, noise=noise, seed=seed), plan)
            assert fit.changes == 0


def test_a_long_night_of_decoding_does_not_wear_out_what_is_known_of_prompts():
    slow = TRUTH._replace(token=8e-5, attention=2e-8)  # prompts cost far more than the prior says
    fit, plan = fresh(), list(schedule(3_000))
    learn(fit, noisy(plan, slow, noise=0.02), plan)
    before = share_error(fit, plan, slow)
    night = [(Features(4, 4, 4, 4 * 900 + n, 0), n % 50 > 0) for n in range(60_000)]
    learn(fit, noisy(night, slow, noise=0.02), night)
    assert share_error(fit, plan, slow) < before + 0.01


def test_a_model_of_unknown_shape_is_shared_by_tokens_until_it_is_learned():
    fit, plan = fresh(known=False), list(schedule(400))
    assert (fit.method("auto"), fit.method("roofline"), fit.method("equal")) == ("tokens", "tokens", "equal")
    learn(fit, noisy(plan, noise=0.03), plan)
    assert fit.method("auto") == "roofline"
    assert fit.moves == 1


def test_the_ladder_goes_down_where_a_lower_rung_fits_and_up_again_when_the_engine_is_itself():
    fit, plan = fresh(), list(schedule(4_000))
    # Steps that take as long as they have sequences, whatever else is in them, which no coefficient but one explains.
    odd = [1e-3 * step.sequences for step, _ in plan]
    learn(fit, odd, plan)
    assert fit.errors.mean(3) < 0.01
    assert fit.method("auto") in {"roofline", "affine", "equal"}
    assert fit.errors.mean(fit.rung) < 0.06
    moved = fit.moves
    learn(fit, noisy(plan), plan)
    assert fit.method("auto") == "roofline"
    assert fit.moves <= moved + 3, "it does not swing"


def test_the_first_sixty_four_steps_are_the_priors():
    fit, plan = fresh(), list(schedule(WARM))
    times = noisy(plan)
    learn(fit, times[:-1], plan[:-1])
    assert not fit.trusted()
    assert fit_row("e", fit, "roofline").coverage_ppm == 0
    learn(fit, times[-1:], plan[-1:])
    assert fit_row("e", fit, "roofline").fitted


def test_steady_steps_are_looked_at_one_in_eight_once_it_knows():
    fit = fresh()
    night = [(Features(4, 4, 4, 4_000 + n, 0), True) for n in range(512 + 800)]
    learn(fit, noisy(night), night)
    assert fit.observations == 512 + 100


def test_steps_without_length_and_absurd_ones_do_no_harm():
    fit, plan = fresh(), list(schedule(300))
    times = noisy(plan)
    times[3], times[50], times[200], times[201] = 0.0, 1e-9, 3_600.0, 1e-9
    learn(fit, times, plan)
    assert all(0.0 <= value < 1e3 for value in fit.coefficients("roofline"))
    assert share_error(fit, plan) < 0.1


def test_its_state_goes_through_json_to_the_last_bit():
    fit, plan = fresh(), list(schedule(700))
    times = noisy(plan, noise=0.05)
    learn(fit, times, plan)
    again = fresh()
    for place, (index, after) in enumerate(pairwise([0, 1, 100, 101, 333, 700])):
        piece = list(enumerate(zip(plan, times, strict=True)))[index:after]
        for number, ((step, steady), seconds) in piece:
            again.observe(step, round(seconds * 1e9), steady=steady, index=number, method=again.method("auto"))
        again = msgspec.json.decode(msgspec.json.encode(again), type=StepFit)
        assert place < 5
    assert again == fit


def test_experts_are_learned_with_the_coverage_of_the_batch():
    moe = TRUTH._replace(expert_part=0.9, expert_miss=1 - 8 / 128)
    start = prior(GENERIC_SHAPE, "gpu", 1, H100)
    fit, plan = StepFit(start._replace(expert_part=0.9, expert_miss=1 - 8 / 128)), list(schedule(3_000))
    learn(fit, noisy(plan, moe, noise=0.03), plan)
    off = [abs(took(fit.coefficients("roofline"), step) / took(moe, step) - 1) for step, _ in plan]
    assert sum(off) / len(off) < 0.04
    without, times = fresh(), noisy(plan, moe, noise=0.03)
    learn(without, times, plan)
    assert without.errors.mean(0) > 1.2 * fit.errors.mean(0)


def test_the_affine_model_is_fitted_beside_it():
    fit, plan = fresh(), list(schedule(2_000))
    learn(fit, noisy(plan), plan)
    step = plan[-1][0]
    assert fit.errors.mean(0) < fit.errors.mean(1) < fit.errors.mean(2)
    assert step_total(affine_prices(fit.coefficients("affine"), step), step) == pytest.approx(
        took(TRUTH, step), rel=0.2
    )
    assert KNEES[0] == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_least_squares_without_negatives_beat_every_neighbour(seed):
    rng = random.Random(seed)
    size = rng.randint(1, 6)
    rows = [[rng.uniform(-1, 1) for _ in range(size)] for _ in range(size + 3)]
    a = [[sum(r[i] * r[j] for r in rows) + (0.02 if i == j else 0.0) for j in range(size)] for i in range(size)]
    b = [rng.uniform(-1, 1) for _ in range(size)]
    u = solve(a, b)
    assert min(u) >= 0.0
    best = objective(a, b, u)
    for _ in range(300):
        other = [max(0.0, value + rng.gauss(0, 0.1)) for value in u]
        assert objective(a, b, other) >= best - 1e-9
