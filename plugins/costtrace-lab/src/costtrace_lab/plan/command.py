"""The command ``costtrace plan``."""

import sys
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path

import click
from costtrace_board.commands.tier_options import find_tier
from costtrace_board.figures import BASES, Tier, rounded

from costtrace.cli.options import examples, format_option, home_option, name_period, out, period, period_options, zone
from costtrace.core.errors import CosttraceError
from costtrace.core.numbers import exact
from costtrace.core.rows import FitRow
from costtrace.core.units import NANO_PER_UNIT, NS_PER_HOUR
from costtrace.ledger.queries import fits
from costtrace.ledger.reader import Store, open_ledger
from costtrace.reports.output.render import render
from costtrace_lab.plan import plot as picture
from costtrace_lab.plan import query as plan_query
from costtrace_lab.plan.figures import Scenario, ServedPart
from costtrace_lab.plan.scenarios import Change, TodayRuns, Traffic, play, replay_today, traffic_of
from costtrace_lab.plan.tables import PlanResult, plan_tables
from costtrace_lab.plan.times import StepTimeOptions
from costtrace_lab.replay.plot import check
from costtrace_lab.simulator.scheduler import SchedulerConfig

MAX_SCENARIOS = 16
FEW_REQUESTS = 100


@click.command(
    short_help="What another price, device, batch limit or fleet would cost: MODELLED.",
    epilog=examples(
        "costtrace plan                                        how well the model tells today's cost",
        "costtrace plan --utilisation 0.3,0.5,0.7              what fuller engines would save",
        "costtrace plan --tier neocloud                        the same fleet at another price",
        "costtrace plan --device 'NVIDIA H200' --tier neocloud",
        "costtrace plan --device next --tflops 2500 --tb-per-s 8 --tier mine=2.10",
        "costtrace plan --max-sequences 32,64,128,256 --utilisation 0.7 --plot batch.svg",
        "costtrace plan --split 2:1 --since 7d                 prefill and decode on engines of their own",
    ),
)
@click.option("--model", help="Model of the engines.  [default: the one that was served longest]")
@click.option("--fleet", "fleet_name", help="Their device today, as `report --by device` has it.  [default: likewise]")
@click.option("--requests", type=click.IntRange(1), default=2_000, show_default=True, help="Newest requests to replay.")
@click.option("--basis", type=click.Choice(BASES), default="output", show_default=True, help="Tokens that are counted.")
@click.option("--tier", help="Price: a published tier (see `benchmarks import`), or yours per GPU-hour: mine=2.10.")
@click.option("--book", type=click.Path(path_type=Path), help="A price book that has this tier.")
@click.option(
    "--device", help="Another device: one of the table in docs/method/paper.md, or any name with its two peaks."
)
@click.option("--tflops", help="Its dense 16-bit TFLOP/s.")
@click.option("--tb-per-s", help="Its memory bandwidth, TB/s.")
@click.option(
    "--tables",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Its measured kernel tables, as aiconfigurator has them. Needs --shape.",
)
@click.option(
    "--today-tables",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Those of today's device. [default: the fit of the ledger; without --device, --tables]",
)
@click.option("--shape", help="The model's shape: qwen3-8b, llama-3.1-8b, qwen3-14b, or its config.json.")
@click.option("--max-sequences", help="Other batch limit: sequences that run at a time; several with commas.")
@click.option("--token-budget", type=click.IntRange(1), help="Other limit: tokens of a step.")
@click.option("--kv-tokens", type=click.IntRange(1), help="Other size of the KV cache.")
@click.option("--engines", type=click.IntRange(1), help="Other number of engines; requests go to them in turn.")
@click.option("--split", metavar="P:D", help="Disaggregate: P engines for prefill, D for decode.")
@click.option("--utilisation", help="Load the engines until they are used so much, 0 to 1; several with commas.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it: out.svg, out.png or out.pdf.")
@period_options
@format_option
@home_option
def plan(
    *,
    model: str | None,
    fleet_name: str | None,
    requests: int,
    basis: str,
    tier: str | None,
    book: Path | None,
    device: str | None,
    tflops: str | None,
    tb_per_s: str | None,
    tables: Path | None,
    today_tables: Path | None,
    shape: str | None,
    max_sequences: str | None,
    token_budget: int | None,
    kv_tokens: int | None,
    engines: int | None,
    split: str | None,
    utilisation: str | None,
    plot: Path | None,
    since: str | None,
    until: str | None,
    tz: str,
    form: str,
    home: Path,
) -> None:
    """Serve the ledger's requests again in the serving simulator, and say what another configuration would cost.

    First comes today's configuration: what the model says about it beside what was measured; the difference is the
    model's error. Then the scenario. All options that are given apply together; --max-sequences and
    --utilisation take several values, each of which is a line.

    Steps take what the engine's own fit says (`costtrace model`), scaled to another device by compute and memory
    bandwidth; or what measured kernel tables say (--tables); or the analytic model (--shape, where there is no fit).

    Without idle a cost is that of the time in steps. With idle it is that of all paid time: today's engines for as long
    as today, so a faster device saves nothing by itself; with --utilisation, that time over the part you aim at.

    Not included: KV transfer and its network, communication between more devices than today, another software's speed,
    whether a model fits into a device's memory, and prefix-cache hits other than those that were measured.
    """
    if plot is not None:
        check(plot)
    times_options = StepTimeOptions(
        shape, device, _positive("--tflops", tflops), _positive("--tb-per-s", tb_per_s), tables, today_tables
    )
    changes = _changes(Change(None, token_budget, kv_tokens, engines, _split(split), None), max_sequences, utilisation)
    time_zone = zone(tz)
    with open_ledger(home) as store:
        span = period(store, since, until, time_zone)
        group = plan_query.engine_group(store, span, model, fleet_name)
        parts = plan_query.served_parts(store, span, group, requests)
        if not parts:
            raise CosttraceError(f"no request of {group.model} on {group.device} ended in this period")
        traffic = traffic_of(group, parts)
        fit = _fit(store, traffic)
    prices = _Prices(parts, find_tier(tier, book), tier, device or group.device, times_options)
    today_runs = replay_today(traffic, fit, times_options)
    if not today_runs.measured.tokens(basis):
        raise CosttraceError(f"these requests have no {basis} tokens: take another --basis")
    scenarios = [
        Scenario("", today_runs.modelled, prices.today, Fraction(group.pools), Fraction(1), None, carried=True)
    ]
    if times_options.other_device or tables is not None or tier is not None or changes != [Change()]:
        for number, change in enumerate(changes, start=1):
            _show_progress(f"serving {len(parts):,} requests again: scenario {number} of {len(changes)}")
            scenarios.append(play(traffic, today_runs, times_options, change, (prices.name, prices.then)))
        _show_progress("")
    result = PlanResult(
        group,
        basis,
        prices.currency,
        prices.today,
        len(parts),
        today_runs.measured,
        today_runs.modelled,
        scenarios,
        _assumptions(traffic, today_runs, prices, name_period(span, time_zone), scenarios[-1]),
        _notes(traffic, today_runs, scenarios),
    )
    if plot is not None:
        picture.draw(plot, result)
    out(render(plan_tables(result), form))


def _show_progress(text: str) -> None:
    """Show a line of progress on stderr, where that is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


class _Prices:
    """The price of a GPU-hour today and in the scenario. Raises: CosttraceError, where one is unknown."""

    def __init__(
        self, parts: Sequence[ServedPart], tier: Tier | None, name: str | None, device: str, options: StepTimeOptions
    ) -> None:
        self.name = f"tier {name}" if name else ""
        priced = [part for part in parts if part.cost_nano is not None and part.currency]
        currencies = {part.currency for part in priced}
        if len(currencies) > 1:
            raise CosttraceError(
                f"these requests are billed in {' and '.join(sorted(currencies))}: take a --since within one"
            )
        if len(priced) == len(parts):
            cost, gpu_ns = sum(part.cost_nano or 0 for part in priced), sum(part.gpu_ns for part in priced)
            self.today = Fraction(cost * NS_PER_HOUR, gpu_ns * NANO_PER_UNIT)
            self.currency, self.source = currencies.pop(), "measured: cost over device time, energy in it"
        elif tier is not None:
            self.today, self.currency = Fraction(tier.price(device).per_gpu_hour), tier.currency
            self.source = "the ledger has no full cost: the tier's, for today too"
        else:
            raise CosttraceError("the cost of these requests is not known in full: give a price with --tier mine=2.10")
        if tier is None:
            if options.other_device:
                raise CosttraceError("another device has another price: name it with --tier, as in --tier mine=2.10")
            self.then, self.then_source = self.today, "as today"
            return
        if tier.currency != self.currency:
            raise CosttraceError(
                f"the ledger is in {self.currency}, the tier in {tier.currency}: they cannot be compared"
            )
        entry = tier.price(device)
        self.then, self.then_source = Fraction(entry.per_gpu_hour), f"{tier.name}: {entry.source}"


def _fit(store: Store, traffic: Traffic) -> FitRow | None:
    """The newest fitted step model of the group's engines, else the newest prior; None where the ledger has none."""
    names = plan_query.newest_fit_engines(store, traffic.group)
    newest = fits(store, names[0], 1) if names else []
    return newest[0].row if newest else None


def _changes(base: Change, max_sequences: str | None, utilisation: str | None) -> list[Change]:
    if base.engines is not None and base.split is not None:
        raise CosttraceError("--split names the engines already: leave --engines out")
    limits = [None] if max_sequences is None else [_whole("--max-sequences", word) for word in max_sequences.split(",")]
    loads = [None] if utilisation is None else [_part(word) for word in utilisation.split(",")]
    changes = [base._replace(max_sequences=limit, utilisation=load) for limit, load in product(limits, loads)]
    if len(changes) > MAX_SCENARIOS:
        raise CosttraceError(f"that is {len(changes)} scenarios: ask for {MAX_SCENARIOS} at most")
    return changes


def _whole(name: str, word: str) -> int:
    text = word.strip()
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**9):
        raise CosttraceError(f"{name}: {word!r} is not a whole number from 1 up")
    return int(text)


def _part(word: str) -> Decimal:
    part = _positive("--utilisation", word)
    if part is None or part > 1:
        raise CosttraceError(f"--utilisation: {word!r} is not a part between 0 and 1, as in 0.6")
    return part


def _positive(name: str, word: str | None) -> Decimal | None:
    if word is None:
        return None
    number = exact(word)
    if number is None or number <= 0:
        raise CosttraceError(f"{name}: {word!r} is not a number greater than 0")
    return number


def _split(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    prefill, _, decode = text.partition(":")
    return _whole("--split P:D", prefill), _whole("--split P:D", decode)


def _assumptions(
    traffic: Traffic, today_runs: TodayRuns, prices: _Prices, when: str, last: Scenario
) -> list[tuple[str, str, str]]:
    group, limits = traffic.group, traffic.limits
    source = (
        "the engines' settings" if traffic.limits_known else "the engines' settings; what they do not say is assumed"
    )
    each = f"{group.pools} with {group.gpus_per_engine} x {group.device}"
    return [
        (
            "traffic",
            f"{len(traffic.parts):,} requests as they arrived, prefix-cache hits as measured",
            f"ledger, {when}",
        ),
        ("engines today", each, "ledger"),
        ("limits today", show_limits(limits), source),
        ("utilisation today", f"{100 * float(group.utilisation):.1f} %", f"ledger, all paid time, {when}"),
        ("step times today", today_runs.times.times.source, today_runs.times.kind),
        (
            "step times in the scenario",
            last.step_times or today_runs.times.times.source,
            "as asked" if last.name else "as today",
        ),
        ("GPU-hour today", f"{rounded(prices.today, 4)} {prices.currency}", prices.source),
        ("GPU-hour in the scenario", f"{rounded(prices.then, 4)} {prices.currency}", prices.then_source),
    ]


def _notes(traffic: Traffic, today_runs: TodayRuns, scenarios: Sequence[Scenario]) -> list[str]:
    notes = [
        "Modelled by the serving simulator on the ledger's requests; nothing of it was measured but the line 'today'.",
        "Without idle: time in steps. With idle: all paid time, today's as long as today, or over the part aimed at.",
        *today_runs.times.notes,
    ]
    if any(not scenario.carried for scenario in scenarios):
        notes.append("Step times of another kind than today's: their own error is not known, and the range is not.")
    if len(traffic.parts) < FEW_REQUESTS:
        notes.append(f"Only {len(traffic.parts)} requests: take these figures as an example.")
    if traffic.group.others:
        notes.append(f"Not in it: {'; '.join(traffic.group.others)}.")
    return notes


def show_limits(limits: SchedulerConfig) -> str:
    """A scheduler's limits in words."""
    step = f"{limits.max_sequences:,} sequences, {limits.token_budget:,} tokens a step"
    return f"{step}, {limits.kv_tokens:,} KV tokens"
