"""Published claims come out again from their stated inputs, and say what they leave out."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from click.testing import CliRunner
from costtrace_board.claims import claims
from costtrace_board.published import POINTS, TIERS
from costtrace_board.roi import Assumptions, compute

from costtrace.cli.app import cli
from costtrace.core.errors import CosttraceError

CHECKS = {(claim.key, check.what): check for claim in claims() for check in claim.checks}


def test_every_published_digit_is_met():
    published = {key: check for key, check in CHECKS.items() if check.published}
    assert {key: str(check.computed) for key, check in published.items()} == {
        ("two-cents", "cost per million, hyperscaler"): "0.02",
        ("five-fold", "before"): "0.090",
        ("five-fold", "after"): "0.018",
        ("five-fold", "improvement"): "5",
        ("fifteen-fold", "return"): "15",
    }
    assert all(check.reproduced for check in published.values())


@pytest.mark.parametrize(
    ("claim", "what", "by_hand"),
    [
        # 1.95 / 0.02 x 1,000,000 / 3,600
        ("two-cents", "throughput that 0.02 USD needs, hyperscaler", "27083"),
        ("two-cents", "throughput that 0.02 USD needs, neocloud", "32500"),
        ("two-cents", "throughput that 0.02 USD needs, rental_3y", "40278"),
        ("two-cents", "at the highest throughput", "0.009"),
        ("two-cents", "independent, 1,024 at once, hyperscaler", "0.030"),
        ("two-cents", "independent, 8 at once, rental_3y", "0.59"),
        # 75,000,000 / (289,712 x 4 x 31,557,600) x 1,000,000
        ("fifteen-fold", "price it needs: v5.1 Offline, 4 years, 100 % utilised", "2.05"),
        ("fifteen-fold", "price it needs: v5.1 Offline, 4 years, 60 % utilised", "3.42"),
        ("fifteen-fold", "price it needs: v6.1 Offline, 4 years, 100 % utilised", "1.13"),
        ("fifteen-fold", "purchase price as an hourly rate", "1.98"),
        ("fifteen-fold", "total cost of four years, rental_3y", "8.33"),
        ("five-fold", "MLPerf, deepseek-r1 on 72 x GB200, Offline, v5.1 to v6.1", "1.81"),
    ],
)
def test_what_is_derived_is_what_it_is_by_hand_and_is_not_called_published(claim, what, by_hand):
    check = CHECKS[claim, what]
    assert check.computed == Decimal(by_hand)
    assert check.reproduced is None


def test_a_digit_that_is_not_met_is_seen():
    check = CHECKS["two-cents", "cost per million, hyperscaler"]
    assert check._replace(published="0.03").reproduced is False


def test_every_claim_says_what_it_leaves_out_and_every_token_figure_its_basis():
    for claim in claims():
        assert claim.leaves_out
        for check in claim.checks:
            assert check.source
            assert check.basis or "token" not in check.unit


def test_reference_points_are_dated_sourced_and_have_a_basis():
    for point in POINTS:
        assert point.date
        assert point.source
        assert point.conditions
        assert point.basis in {"total", "output", "input", "not stated"}
    assert TIERS["hyperscaler"].price("B200").per_gpu_hour == Decimal("1.95")


def test_the_command_shows_one_claim_or_all():
    done = CliRunner().invoke(cli, ["benchmarks", "claims", "--only", "fifteen-fold", "--format", "json"])
    shown = json.loads(done.output)
    assert {row["claim"] for row in shown["checks"]} == {"fifteen-fold"}
    assert shown["leaves_out"]
    wrong = CliRunner().invoke(cli, ["benchmarks", "claims", "--only", "free-lunch"])
    assert isinstance(wrong.exception, CosttraceError)
    assert CliRunner().invoke(cli, ["benchmarks", "published"]).exit_code == 0


def test_the_return_is_worked_from_its_assumptions():
    plain = compute(Assumptions())
    assert plain.tokens == 289_712 * 4 * 31_557_600
    assert round(plain.over_purchase_price, 1) == 15
    assert plain.total_cost == Fraction("2.21") * 72 * 8_766 * 4
    worse = compute(Assumptions(utilisation=Decimal("0.5"), price_decline=Decimal("0.5")))
    # half of the tokens; prices of 1, 1/2, 1/4, 1/8
    assert worse.revenue == plain.revenue / 2 * Fraction(15, 8) / 4
    assert compute(Assumptions(purchase_price=Decimal(0))).over_purchase_price is None
