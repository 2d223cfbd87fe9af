"""Published claims: each computed again from its stated inputs to the published digits, and what it leaves out.

A check with a published number says whether every digit is met; one without is derived here and marked so. A claim
that states no number cannot be reproduced: it is listed with what would have to be measured.
"""

from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from costtrace_board.figures import cost_per_million, rounded
from costtrace_board.roi import HOURS_PER_YEAR, tokens_sold

RACK_GPUS = 72


class Check(NamedTuple):
    """A number computed from stated inputs, beside the published one."""

    what: str
    inputs: str
    published: str
    """As published, without its unit; '' where none was published and it is derived here."""
    unit: str
    basis: str
    """Token basis; '' where no token is counted."""
    exact: Fraction
    places: int
    """Decimal places that were published."""
    source: str

    @property
    def computed(self) -> Decimal:
        """The exact number, rounded to the published places."""
        return rounded(self.exact, self.places)

    @property
    def reproduced(self) -> bool | None:
        """Whether every published digit is met; None where none was published."""
        return self.computed == Decimal(self.published.replace(",", "")) if self.published else None


class Claim(NamedTuple):
    """A claim, its checks, and what it leaves out."""

    key: str
    statement: str
    checks: tuple[Check, ...]
    leaves_out: tuple[str, ...]


def per_million(price: str, tokens_per_s_per_gpu: int) -> Fraction:
    """USD per million tokens."""
    return cost_per_million(Decimal(price), tokens_per_s_per_gpu)


def throughput_for(price: str, per_million_usd: str) -> Fraction:
    """Tokens/s/GPU at which a million tokens cost *per_million_usd*: the inverse of `per_million`."""
    return Fraction(price) * 1_000_000 / (Fraction(per_million_usd) * 3_600)


def _cost(what: str, price: str, tput: int, basis: str, source: str, *, places: int, published: str = "") -> Check:
    inputs = f"{price} USD per GPU-hour / ({tput:,} {basis} tokens/s/GPU x 3,600 s) x 1,000,000"
    exact = per_million(price, tput)
    return Check(what, inputs, published, "USD per million tokens", basis, exact, places, source)


def _two_cents() -> Claim:
    source = "InferenceMAX v1 / InferenceX; tier prices 2026-04-03"
    needs = [
        Check(
            f"throughput that 0.02 USD needs, {tier}",
            f"{price} USD per GPU-hour / (0.02 USD x 3,600 s) x 1,000,000",
            "",
            "tokens/s/GPU",
            "total",
            throughput_for(price, "0.02"),
            0,
            source,
        )
        for tier, price in (("hyperscaler", "1.95"), ("neocloud", "2.34"), ("rental_3y", "2.90"))
    ]
    energy = "ML.ENERGY: measured, vLLM on one B200, gpqa"
    return Claim(
        "two-cents",
        "B200 runs gpt-oss-120b at two cents per million tokens",
        (
            _cost("cost per million, hyperscaler", "1.95", 27_083, "total", source, places=2, published="0.02"),
            *needs,
            _cost("at the highest throughput", "1.95", 60_000, "total", "NVIDIA, peak tokens/s/GPU", places=3),
            _cost("independent, 1,024 at once, hyperscaler", "1.95", 17_766, "output", energy, places=3),
            _cost("independent, 1,024 at once, neocloud", "2.34", 17_766, "output", energy, places=3),
            _cost("independent, 1,024 at once, rental_3y", "2.90", 17_766, "output", energy, places=3),
            _cost("independent, 8 at once, hyperscaler", "1.95", 1_358, "output", energy, places=2),
            _cost("independent, 8 at once, neocloud", "2.34", 1_358, "output", energy, places=2),
            _cost("independent, 8 at once, rental_3y", "2.90", 1_358, "output", energy, places=2),
        ),
        (
            "Its throughput was not in the headline: 27,083 tokens/s/GPU is what two cents need at that price.",
            "It counts total tokens: with as much input as output the same run costs twice as much per output token.",
            "It is one operating point at the peak; the same chip and model was published at 0.02 to 0.31 USD: 15x.",
            "Every GPU is busy with a full batch all the time: no idle hour, no failover reserve, no ramp.",
            "The tier is a hyperscaler's cost over four years, not a price that can be bought.",
            "Prompts are random and of fixed length, without prefix cache.",
        ),
    )


def _five_fold() -> Claim:
    source = "NVIDIA: 100 tokens/s/user, Eagle3-v2"
    return Claim(
        "five-fold",
        "Software alone cut the cost per token 5x in two months (B200, gpt-oss-120b)",
        (
            _cost("before", "1.95", 6_000, "total", source, places=3, published="0.090"),
            _cost("after", "1.95", 30_000, "total", source, places=3, published="0.018"),
            Check(
                "improvement",
                "(1.95 / 6,000) / (1.95 / 30,000)",
                "5",
                "x",
                "total",
                per_million("1.95", 6_000) / per_million("1.95", 30_000),
                0,
                source,
            ),
            Check(
                "improvement, as another page has it",
                "0.11 USD / 0.02 USD",
                "",
                "x",
                "not stated",
                Fraction("0.11") / Fraction("0.02"),
                1,
                "gpuaas.com",
            ),
            Check(
                "MLPerf, deepseek-r1 on 72 x GB200, Offline, v5.1 to v6.1",
                "523,790 / 289,712 tokens/s, no price in it",
                "",
                "x",
                "output",
                Fraction(523_790, 289_712),
                2,
                "MLCommons, MLPerf Inference v5.1 and v6.1, NVIDIA, closed; a ratio of results, made by costtrace",
            ),
        ),
        (
            "Both figures are of one interactivity (100 tokens/s/user); elsewhere on the front the gain is another.",
            "Eagle3-v2 is a draft model for speculative decoding: part of the gain is a new model, not a new engine.",
            "Acceptance of drafts depends on the traffic; the benchmark's prompts are random.",
            "Of your own fleet only the ledger can tell: `costtrace improvement --at DATE`.",
        ),
    )


def _fifteen_fold() -> Claim:
    nvidia = "NVIDIA: GB200 NVL72, DeepSeek-R1"
    revenue, capex = Fraction(75_000_000), Fraction(5_000_000)
    checks = [
        Check("return", "75,000,000 USD / 5,000,000 USD", "15", "x", "", revenue / capex, 0, nvidia),
        Check(
            "purchase price as an hourly rate",
            "5,000,000 USD / 72 GPUs / 4 years of 8,766 h",
            "",
            "USD per GPU-hour",
            "",
            capex / (RACK_GPUS * 4 * HOURS_PER_YEAR),
            2,
            "computed; purchase price only",
        ),
    ]
    for what, tput, years, utilisation in (
        ("price it needs: v5.1 Offline, 4 years, 100 % utilised", 289_712, 4, "1"),
        ("price it needs: v5.1 Offline, 3 years, 100 % utilised", 289_712, 3, "1"),
        ("price it needs: v5.1 Offline, 4 years, 60 % utilised", 289_712, 4, "0.6"),
        ("price it needs: v6.1 Offline, 4 years, 100 % utilised", 523_790, 4, "1"),
    ):
        sold = tokens_sold(Fraction(tput), Fraction(years), Fraction(utilisation))
        checks.append(
            Check(
                what,
                f"75,000,000 USD / ({tput:,} tokens/s x {years} years x {utilisation})",
                "",
                "USD per million tokens",
                "output",
                revenue * 1_000_000 / sold,
                2,
                "MLCommons, MLPerf Inference, 72 x GB200, deepseek-r1, Offline; derived, not an MLPerf metric",
            )
        )
    for tier, price in (("hyperscaler", "2.21"), ("neocloud", "2.75"), ("rental_3y", "3.30")):
        total = Fraction(price) * RACK_GPUS * 4 * HOURS_PER_YEAR
        checks.append(
            Check(
                f"total cost of four years, {tier}",
                f"{price} USD x 72 GPUs x 4 x 8,766 h",
                "",
                "M USD",
                "",
                total / 1_000_000,
                2,
                "tier prices 2026-04-03",
            )
        )
    return Claim(
        "fifteen-fold",
        "15x return: 5 M USD of hardware yields 75 M USD of token revenue",
        tuple(checks),
        (
            "It is of DeepSeek-R1 on a GB200 NVL72; beside a gpt-oss figure it is often read as that model's.",
            "Revenue is divided by the purchase price: no power, site, network, staff or capital cost.",
            "Over a total cost of four years of 5.58 to 8.33 M USD the same revenue is 13.4x to 9.0x.",
            "Every token is sold, at list price, for four years: no idle hour, no discount, no price decline.",
            "Offline throughput has no latency limit. Interactive service yields less of the same rack.",
            "Only output tokens are sold here; input tokens are sold too, and cost capacity too.",
        ),
    )


def _disaggregation() -> Claim:
    return Claim(
        "disaggregation",
        "Dynamo's disaggregated serving absorbs token volume without proportional cost increases",
        (),
        (
            "No number was published, so there is nothing to reproduce.",
            "What can be measured is how much cost grew with tokens: `costtrace board` shows it month by month.",
            "A cost that grows less than the tokens is what the claim says; idle capacity that fills up does so too.",
        ),
    )


def claims() -> tuple[Claim, ...]:
    """All claims."""
    return (_two_cents(), _five_fold(), _fifteen_fold(), _disaggregation())
