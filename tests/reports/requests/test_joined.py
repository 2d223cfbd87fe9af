"""Parts of requests joined: rows of a real ledger, so that SQL and arithmetic are held against each other."""

import csv
import io
import itertools
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from otlp_receiver import MS, TRACE, USD, WALL, engine, record, turn, write

from costtrace.cli.app import cli
from costtrace.core.rows import DISAGGREGATED, JOINED, FitRow
from costtrace.ledger.answers import Period, Request
from costtrace.ledger.periods.rerate import rerate
from costtrace.ledger.queries import claims, ended, used
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.ledger.retries import settled
from costtrace.ledger.store import Ledger
from costtrace.pricing.price_book import DevicePrice, PriceBook
from costtrace.reports.output.render import render
from costtrace.reports.requests.joined import RecordedPart, join
from costtrace.reports.requests.joined_query import find_parts, parts
from costtrace.reports.requests.joined_tables import wholes_table
from costtrace.reports.usage.summary import summarize
from costtrace.telemetry.totals import Totals

ALL = Period(0, 1 << 62)
WAIT_NS = 60_000 * MS
NOW_NS = WALL + 3_600_000 * MS
numbers = itertools.count(1)


def part(role, key="r", at_ms=0, *, prompt=18, output=1, cached=0, ends=("length",), gpu=(30, 70), wasted=0, **more):
    """A usage record that began *at_ms*: 30 ms of GPU time in prefill and 70 in decode unless *gpu* says otherwise."""
    prefill_ns, decode_ns = gpu[0] * MS, gpu[1] * MS
    number = next(numbers)
    row = {
        "record_id": f"{role}-{number}",
        "request_key": JOINED + key,
        "request_id": key,
        "engine_id": f"engine-{role}",
        "role": role,
        "tenant": "acme",
        "tenant_source": "metadata:tenant",
        "traceparent": f"00-{TRACE}-{number:016x}-01",
        "arrived_ns": WALL + at_ms * MS,
        "scheduled_ns": WALL + at_ms * MS,
        "decode_ns_at": WALL + (at_ms + 1) * MS,
        "ended_ns": WALL + (at_ms + 100) * MS,
        "gpu_ns": prefill_ns + decode_ns,
        "prefill_ns": prefill_ns,
        "decode_ns": decode_ns,
        "wasted_ns": wasted * MS,
        "energy_uj": None,
        "prefill_uj": None,
        "decode_uj": None,
        "input_tokens": prompt,
        "cached_tokens": cached,
        "output_tokens": output,
        "computed_tokens": prompt - cached + output,
        "finish_reasons": ends,
    }
    return record(number, **{**row, **more})


def ledger_of(tmp_path, *records, name="home"):
    """A home whose ledger has these records; a worker for each role."""
    home = tmp_path / name
    home.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(home / "ledger.sqlite")
    roles = {one.engine_id.removeprefix("engine-") for one in records}
    engines = [
        engine(f"engine-{role}", role=role, engine="vllm", settings={"dynamo_worker": f"worker-{role}"})
        for role in sorted(roles)
    ]
    write(ledger, turn(list(records)), *engines)
    ledger.close()
    return home


def joined(tmp_path, *records, now_ns=NOW_NS):
    with open_ledger(ledger_of(tmp_path, *records)) as store:
        (whole,) = join(parts([store], ALL, Filter(), "ended", 100), now_ns, WAIT_NS)
        (line,) = summarize((), used(store, ALL, ()), ended(store, ALL, ()), UTC).lines
    # The report's SQL counts as the join does.
    assert (line.requests, line.input_tokens, line.output_tokens) == (1, whole.input_tokens, whole.output_tokens)
    return whole


PREFILL = {"role": "prefill", "gpu": (30, 0), "cached": 4}
DECODE = {"role": "decode", "at_ms": 50, "gpu": (5, 70), "output": 12, "cached": 17}


def test_the_energy_of_a_part_of_its_time_is_shown_as_a_part(tmp_path):
    known = {"energy_uj": 2_000, "prefill_uj": 1_000, "decode_uj": 1_000}
    whole = joined(tmp_path, part(**PREFILL, **known), part(**DECODE, **known, energy_unknown_ns=7))

    assert (whole.energy_uj, whole.gap_ns) == (4_000, 7)
    assert "0.004 J + ?" in render([wholes_table([whole], "", UTC)], "table")


def test_a_prefill_and_a_decode_part_make_one_request_with_one_total(tmp_path):
    whole = joined(tmp_path, part(**PREFILL), part(**DECODE))
    assert (whole.gpu_ns, whole.prefill_ns, whole.decode_ns) == (105 * MS, 35 * MS, 70 * MS)
    assert [whole.share(role)[0] for role in ("prefill", "decode")] == [30 * MS, 75 * MS]
    assert (whole.input_tokens, whole.output_tokens) == (18, 12), "the prefill worker's token is not an answer"
    assert (whole.cached_tokens, whole.transferred_tokens) == (4, 17)
    assert whole.cost_nano == sum(attempt.part.record.cost_nano for attempt in whole.attempts)
    assert (whole.finality, whole.notes, whole.wasted_ns) == ("final", (), 0)
    assert [attempt.part.worker for attempt in whole.attempts] == ["worker-prefill", "worker-decode"]


def test_the_order_in_which_parts_come_does_not_matter(tmp_path):
    records = [part(**PREFILL), part(**DECODE), part("decode", at_ms=90, prompt=30, output=8, cached=29)]
    with open_ledger(ledger_of(tmp_path, *records)) as store:
        recorded = parts([store], ALL, Filter(), "ended", 100)
    expected = join(recorded, NOW_NS, WAIT_NS)
    for order in itertools.permutations(recorded):
        assert join(order, NOW_NS, WAIT_NS) == expected


def test_parts_of_two_nodes_are_joined_and_one_that_both_have_counts_once(tmp_path):
    prefill, decode = part(**PREFILL), part(**DECODE)
    one = ledger_of(tmp_path, decode, name="one")
    two = ledger_of(tmp_path, prefill, decode, name="two")
    with open_ledger(one) as first, open_ledger(two) as second:
        (whole,) = join(find_parts([first, second], "chatcmpl-r", 10), NOW_NS, WAIT_NS)
    assert (len(whole.attempts), whole.gpu_ns, whole.output_tokens) == (2, 105 * MS, 12)


def test_a_request_that_only_the_other_nodes_ledger_has_is_found_there(tmp_path):
    one, two = (
        ledger_of(tmp_path, part(**PREFILL), name="one"),
        ledger_of(tmp_path, part("aggregated", "s"), name="two"),
    )
    words = ["requests", "--home", str(one), "--also", str(two), "--format", "json"]
    shown = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).output)["requests"]
    assert {row["request_key"] for row in shown} == {JOINED + "r", JOINED + "s"}


@pytest.mark.parametrize("first", ["prefill", "decode"])
def test_two_nodes_ledgers_make_one_total_that_is_provisional_until_the_other_part_is_in(tmp_path, first, monkeypatch):
    """Each node's agent has one part; the total changes with what is read, and no ledger is written."""
    records = {"prefill": part(**PREFILL), "decode": part(**DECODE)}
    homes = {role: ledger_of(tmp_path, one, name=role) for role, one in records.items()}
    second = next(role for role in records if role != first)

    def shown(*also, at_ms):
        monkeypatch.setattr("time.time_ns", lambda: WALL + at_ms * MS)
        others = [word for home in also for word in ("--also", str(home))]
        words = ["requests", "--joined", "--home", str(homes[first]), *others, "--format", "json"]
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        (row,) = json.loads(done.output)["requests"]
        return row

    early, late = shown(at_ms=1_000), shown(at_ms=100_000)
    assert (early["finality"], late["finality"]) == ("provisional", "final"), "the declared time is 60 s"
    assert "has not come yet" in early["notes"][0]
    assert "never came" in late["notes"][0]
    assert early["gpu_ns"] == late["gpu_ns"] == records[first].gpu_ns
    whole = shown(homes[second], at_ms=1_000)
    assert (whole["finality"], whole["notes"], whole["parts"]) == ("final", [], 2)
    assert whole["gpu_ns"] == sum(one.gpu_ns for one in records.values())
    assert whole["output_tokens"] == 12


def test_what_prefix_hits_saved_stands_on_the_request_in_time_and_in_money(tmp_path):
    """40 of 50 tokens were there: by the engine's model they would have taken 4 ms more, at the part's own price."""
    home = ledger_of(tmp_path, part("prefill", prompt=50, cached=40, gpu=(20, 0)), part(**{**DECODE, "prompt": 50}))
    words = ["requests", "--joined", "--home", str(home), "--format", "json"]

    def shown():
        return json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).output)["requests"][0]

    unknown = shown()
    assert (unknown["cached_tokens"], unknown["saved_ns"], unknown["saved_nano"]) == (40, None, None)
    ledger = Ledger(home / "ledger.sqlite")
    with ledger.transaction():
        ledger.put_fit(fit_row("engine-prefill", token_as=100_000 * 10**9))  # 0.1 ms a token
    ledger.close()
    row = shown()
    prefill_nano = row["prefill_role_cost_nano"]
    assert prefill_nano > 0
    assert (row["saved_ns"], row["saved_nano"]) == (4 * MS, 4 * MS * prefill_nano // (20 * MS))
    text = CliRunner().invoke(cli, words[:-2], catch_exceptions=False).output
    assert "4.0 ms, " in text


def fit_row(engine_id, token_as):
    zeros = dict.fromkeys(
        ("knee_tokens", "launch_as", "weights_as", "context_as", "attention_as", "sequence_as", "encoder_as",
         "expert_ppm", "observations", "outliers", "changes", "moves"), 0,
    )  # fmt: skip
    unknown = dict.fromkeys(
        ("roofline_error_ppm", "affine_error_ppm", "tokens_error_ppm", "equal_error_ppm", "coverage_ppm")
    )
    flags = dict.fromkeys(("device_known", "shape_known", "fitted"), True)
    return FitRow(engine_id=engine_id, method="affine", device="H100", token_as=token_as, **zeros, **unknown, **flags)


def test_after_a_migration_what_was_computed_again_is_wasted_and_what_was_delivered_is_not(tmp_path):
    first = part("aggregated", prompt=18, output=14, ends=("interrupted",), gpu=(30, 70), wasted=100)
    second = part("aggregated", at_ms=200, prompt=30, output=8, gpu=(40, 50))
    whole = joined(tmp_path, first, second)
    assert whole.output_tokens == 20, "12 by the first, as the second's prompt says, and 8"
    assert [(a.number, a.output_tokens) for a in whole.attempts] == [(1, 12), (2, 8)]
    surplus_ns = 70 * MS * 2 // 14  # two tokens that never left the first worker
    assert whole.wasted_ns == surplus_ns + 40 * MS
    assert (whole.gpu_ns, whole.finality) == (190 * MS, "final")


def test_a_retry_that_begins_from_nothing_makes_the_first_attempt_a_waste(tmp_path):
    first = part("aggregated", prompt=18, output=1, ends=("interrupted",), gpu=(30, 70), wasted=100)
    second = part("aggregated", at_ms=200, prompt=18, output=8, gpu=(40, 50))
    whole = joined(tmp_path, first, second)
    assert (whole.output_tokens, whole.wasted_ns) == (8, 100 * MS)


def test_a_second_prefill_of_what_the_client_has_already_is_rework(tmp_path):
    whole = joined(
        tmp_path,
        part(**PREFILL),
        part(**{**DECODE, "ends": ("interrupted",), "wasted": 75}),
        part("prefill", at_ms=300, prompt=30, gpu=(45, 0)),
        part("decode", at_ms=350, prompt=30, output=8, cached=29, gpu=(5, 60)),
    )
    assert [attempt.number for attempt in whole.attempts] == [1, 1, 2, 2]
    assert (whole.output_tokens, whole.wasted_ns) == (20, (45 + 5) * MS)


def test_a_prefill_without_its_decode_part_is_provisional_until_the_declared_time_is_over(tmp_path):
    only = part(**PREFILL)
    before = joined(tmp_path, only, now_ns=only.ended_ns + WAIT_NS - 1)
    assert (before.finality, before.notes) == ("provisional", ("the decode part has not come yet",))
    with open_ledger(tmp_path / "home") as store:
        (after,) = join(parts([store], ALL, Filter(), "ended", 100), only.ended_ns + WAIT_NS, WAIT_NS)
    assert (after.finality, after.notes, after.output_tokens) == ("final", ("the decode part never came",), 0)
    assert after.gpu_ns == before.gpu_ns == 30 * MS, "what was journaled is billed"


def test_a_decode_part_whose_context_came_from_elsewhere_misses_its_prefill_part(tmp_path):
    whole = joined(tmp_path, part(**DECODE))
    assert whole.notes == ("the prefill part never came",)
    assert joined(tmp_path / "own", part(**{**DECODE, "cached": 0})).notes == (), "it computed the prompt itself"


def test_a_prefill_that_ended_the_request_is_the_answer(tmp_path):
    whole = joined(tmp_path, part(**{**PREFILL, "ends": ("stop",)}))
    assert (whole.output_tokens, whole.finality, whole.notes) == (1, "final", ())


def test_of_a_cancelled_request_all_parts_are_wasted(tmp_path):
    whole = joined(tmp_path, part(**PREFILL), part(**{**DECODE, "ends": ("abort",), "wasted": 75}))
    assert whole.wasted_ns == whole.gpu_ns == 105 * MS
    assert whole.finality == "final"


def test_a_broken_answer_waits_for_somebody_who_goes_on(tmp_path):
    broken = part("aggregated", output=5, ends=("interrupted",), wasted=100)
    whole = joined(tmp_path, broken, now_ns=broken.ended_ns)
    assert whole.notes == ("the part that goes on after a broken one has not come yet",)
    assert (whole.finality, whole.wasted_ns) == ("provisional", 100 * MS)


@pytest.mark.parametrize("simulated", [True, False])
def test_joules_are_labelled_where_one_of_the_parts_is_simulated(simulated):
    records = part(**PREFILL, energy_uj=1_000_000), part(**DECODE, energy_uj=2_000_000, simulated=simulated)
    wholes = join([RecordedPart(_as_request(one), "w") for one in records], NOW_NS, WAIT_NS)
    shown = render([wholes_table(wholes, "Requests", UTC)], "table")
    assert ("3.000 J SIMULATED" in shown, "3.000 J" in shown) == (simulated, True)


def test_parts_that_disagree_say_so(tmp_path):
    one, other = (f"00-{digit * 32}-{'1' * 16}-01" for digit in "12")
    whole = joined(tmp_path, part(**PREFILL, traceparent=one), part(**DECODE, traceparent=other))
    assert whole.notes == (f"its parts name different traces: {'1' * 32}, {'2' * 32}",)


def test_no_part_of_another_tenant_changes_what_is_counted_of_a_request(tmp_path):
    own = [part(**PREFILL), part(**DECODE)]
    forged = part("decode", at_ms=-1, prompt=2, output=3, record_id="forged", tenant="globex")
    with open_ledger(ledger_of(tmp_path, *own, forged)) as store:
        wholes = join(parts([store], ALL, Filter(), "ended", 100), NOW_NS, WAIT_NS)
        lines = list(ended(store, ALL, ("tenant",)))
    assert sorted((whole.tenant, whole.input_tokens, whole.output_tokens) for whole in wholes) == [
        ("acme", 18, 12),
        ("globex", 2, 3),
    ]
    for tenant, counted in (("acme", [1, 18, 12]), ("globex", [1, 2, 3])):
        own_lines = [(line.requests, line.input_tokens, line.output_tokens) for line in lines if line.keys == (tenant,)]
        assert [sum(column) for column in zip(*own_lines, strict=True)] == counted


def test_an_unknown_cost_of_one_part_makes_the_total_unknown():
    one, other = (RecordedPart(record, "w") for record in (_as_request(part(**PREFILL)), _as_request(part(**DECODE))))
    unknown = other._replace(record=other.record._replace(cost_nano=None))
    (whole,) = join([one, unknown], NOW_NS, WAIT_NS)
    assert whole.cost_nano is None
    assert [whole.share(role)[1] for role in ("prefill", "decode")] == [10, None]


def _as_request(record):
    values = {name: getattr(record, name, 10) for name in Request._fields}
    return Request(**{**values, "cost_nano": 10, "currency": "USD"})


def test_requests_without_a_key_that_joins_stay_apart_even_if_their_keys_are_the_same():
    both = [RecordedPart(_as_request(part("aggregated", request_key="7")), "w") for _ in range(2)]
    assert len(join(both, NOW_NS, WAIT_NS)) == 2


def spread(key="4f1d0c", *, engines=("aggregated", "second"), gpu=(30, 70), **more):
    """n = 3 over two engines: two sequences on the first, one on the other; its prompt of 84 tokens is on both."""
    one, other = (
        part(
            "aggregated",
            key,
            engine_id=f"engine-{role}",
            request_key=key,
            request_id=f"chatcmpl-{key}",
            prompt=84,
            gpu=gpu,
            **more,
        )
        for role in engines
    )
    first = replace(one, output_tokens=18, cached_tokens=4, finish_reasons=("length", "length"), sequences=2)
    second = replace(other, output_tokens=9, cached_tokens=80, part=2, counted_input=0, counted_cached=0)
    return first, second


MARKED_PREFILL = {**PREFILL, "part": 2, "counted_output": 0}
MARKED_DECODE = {**DECODE, "counted_input": 0, "counted_cached": 0}


def counted(home):
    """Requests, prompt, cached and output tokens by the report, and by the sums that need no other part."""
    with open_ledger(home) as store:
        (line,) = summarize((), used(store, ALL, ()), ended(store, ALL, ()), UTC).lines
        sql = "SELECT sum(requests), sum(input_tokens), sum(cached_tokens), sum(output_tokens) FROM usage_line"
        plain = next(store.rows(sql))
        assert sum(requests for *_, requests in claims(store, ALL)) == plain[0]
    return (line.requests, line.input_tokens, line.cached_tokens, line.output_tokens), tuple(plain)


def test_a_request_whose_sequences_are_spread_over_engines_counts_once(tmp_path):
    home = ledger_of(tmp_path, *spread())
    assert counted(home) == ((1, 84, 4, 27),) * 2


def shown(home, *words):
    done = CliRunner().invoke(cli, [*words, "--home", str(home)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def listed(home, *words):
    return json.loads(shown(home, "requests", *words, "--format", "json"))["requests"]


@pytest.mark.parametrize("words", [(), ("--dearest",), ("--id", "chatcmpl-4f1d0c"), ("--id", "4f1d0c")])
def test_a_request_over_two_engines_is_one_line_with_one_cost(tmp_path, words):
    first, second = spread()
    home = ledger_of(tmp_path, first, second)
    (row,) = listed(home, *words)
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["parts"]) == (84, 4, 27, 2)
    assert (row["gpu_ns"], row["sequences"], row["cost_nano"]) == (200 * MS, 3, 2 * USD.cost_nano)
    assert row["finish_reasons"] == ["length"] * 3
    assert "84" in shown(home, "requests", *words)


def test_its_tokens_are_once_on_the_statement_and_in_both_views_of_focus(tmp_path):
    home = ledger_of(tmp_path, *spread())
    month = datetime.fromtimestamp(WALL // 10**9, UTC).strftime("%Y-%m")
    rows = list(csv.DictReader(io.StringIO(shown(home, "focus", "--period", month, "--view", "service"))))
    meters = {row["SkuMeter"]: int(row["ConsumedQuantity"]) for row in rows if row["ConsumedUnit"] == "Tokens"}
    assert meters == {"Input Tokens": 80, "Cached Input Tokens": 4, "Output Tokens": 27}
    statement = json.loads(shown(home, "statement", "--period", month, "--tenant", "acme", "--format", "json"))
    used_lines = [
        line for lines in statement.values() for line in lines if isinstance(line, dict) and line.get("requests")
    ]
    names = ("requests", "input_tokens", "cached_tokens", "output_tokens")
    assert [tuple(line[name] for name in names) for line in used_lines] == [(1, 84, 4, 27)]


@pytest.mark.parametrize("words", [(), ("--id", "4f1d0c")])
def test_joined_too_it_has_its_prompt_once_and_all_of_its_answer(tmp_path, words):
    (row,) = listed(ledger_of(tmp_path, *spread()), "--joined", *words)
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["parts"]) == (84, 4, 27, 2)
    assert (row["request_key"], row["gpu_ns"], row["cost_nano"]) == ("4f1d0c", 200 * MS, 2 * USD.cost_nano)
    assert (row["attempts"], row["finality"], row["notes"]) == (1, "final", [])


def test_the_prompts_of_a_list_are_joined_each_with_its_answer_and_then_all(tmp_path):
    prompts = [part(**half, key=f"u/{n}") for n in range(2) for half in (MARKED_PREFILL, MARKED_DECODE)]
    for words in ((), ("--id", "cmpl-u")):
        (row,) = listed(ledger_of(tmp_path, *prompts, name=f"home{len(words)}"), "--joined", *words)
        assert (row["input_tokens"], row["output_tokens"], row["parts"], row["finality"]) == (36, 24, 4, "final")
    assert "prefill + decode" in shown(tmp_path / "home0", "requests", "--joined")


def test_its_parts_are_shown_where_one_engine_or_the_whole_request_is_asked_for(tmp_path):
    home = ledger_of(tmp_path, *spread())
    (row,) = listed(home, "--engine", "engine-second")
    assert (row["input_tokens"], row["output_tokens"], row["parts"]) == (84, 9, 1)
    text = shown(home, "requests", "--id", "4f1d0c")
    assert ("on engine engine-aggregated" in text, "on engine engine-second" in text) == (True, True)


def test_the_most_expensive_request_is_so_with_all_its_parts(tmp_path):
    """Four quarters on four engines, of 0.05 s each, beside a single one of 0.15 s; by each order, in one ledger."""
    quarters = [
        part("aggregated", "q", engine_id=f"engine-{n}", request_key="q", part=1 + (n > 0), gpu=(20, 30), output=5,
             tenant="b", counted_input=None if n == 0 else 0, counted_cached=None if n == 0 else 0)
        for n in range(4)
    ]  # fmt: skip
    single = part("aggregated", "s", request_key="s", gpu=(50, 100), output=19, prompt=17, tenant="b")
    home = ledger_of(tmp_path, *quarters, single)
    for order in ("cost", "gpu", "tokens"):
        first, second = listed(home, "--sort", order)
        assert (first["request_key"], first["gpu_ns"], first["output_tokens"]) == ("q", 200 * MS, 20), order
        assert second["request_key"] == "s"
        assert listed(home, "--sort", order, "--limit", "1") == [first]


def test_explaining_it_says_what_all_of_it_cost_and_then_each_part(tmp_path):
    home = ledger_of(tmp_path, *spread())
    text = shown(home, "explain", "chatcmpl-4f1d0c")
    assert text.startswith("Request chatcmpl-4f1d0c has 2 parts")
    assert "84 prompt tokens, 27 output tokens, GPU time 200.0 ms" in text
    assert text.count("on engine engine-") == 2
    assert "84 prompt tokens, counted with another part" in text


def test_its_cost_is_the_one_of_now_where_prices_were_changed(tmp_path):
    home = ledger_of(tmp_path, *spread())
    ledger = Ledger(home / "ledger.sqlite")
    with ledger.transaction():
        ledger.put_engine(engine())  # the one that the other rows are of
    book = PriceBook(version="b", currency="EUR", devices=[DevicePrice("*", Decimal(36), True, 0)])
    rerate(ledger, book, ALL, "corrected", NOW_NS)
    ledger.close()
    for words in ((), ("--dearest",)):
        (row,) = listed(home, *words)
        assert (row["cost_nano"], row["currency"]) == (200 * MS * 36 // 3600, "EUR")
        assert (row["first_cost_nano"], row["first_currency"]) == (2 * USD.cost_nano, "USD")


def test_a_prefill_and_a_decode_part_that_say_what_counts_are_one_line(tmp_path):
    home = ledger_of(tmp_path, part(**MARKED_PREFILL), part(**MARKED_DECODE))
    (row,) = listed(home)
    assert (row["input_tokens"], row["output_tokens"], row["role"]) == (18, 12, "prefill + decode")
    assert row["finish_reasons"] == ["length"]


@pytest.mark.parametrize("identifier", ["cmpl-0a1b-0d", "0a1b-0d", "cmpl-0a1b-0d-1"])
def test_a_list_of_prompts_is_found_by_the_id_that_its_client_saw(tmp_path, identifier):
    prompts = [part("aggregated", f"0a1b-0d/{n}", request_id=f"0a1b-0d-{n}", part=1 + (n > 0)) for n in range(3)]
    home = ledger_of(tmp_path, *prompts, part("aggregated", "0a1b-0e"))
    (row,) = listed(home, "--id", identifier)
    assert (row["parts"], row["input_tokens"], row["output_tokens"]) == (3, 54, 3)
    assert sorted(one["parts"] for one in listed(home)) == [1, 3]


@pytest.mark.parametrize("source", ["process", "unobserved", "default:no-context"])
def test_ids_of_one_engine_join_nothing_whatever_their_parts_say(tmp_path, source):
    home = ledger_of(tmp_path, *spread("7", tenant_source=source))
    assert len(listed(home)) == len(listed(home, "--id", "7")) == 2


def test_parts_that_say_what_of_them_counts_need_no_correction_each_on_its_own_node_neither(tmp_path):
    whole = ledger_of(tmp_path, part(**MARKED_PREFILL), part(**MARKED_DECODE))
    assert counted(whole) == ((1, 18, 4, 12),) * 2
    assert counted(ledger_of(tmp_path, part(**MARKED_PREFILL), name="one")) == ((0, 18, 4, 0),) * 2
    assert counted(ledger_of(tmp_path, part(**MARKED_DECODE), name="two")) == ((1, 0, 0, 12),) * 2


def test_an_attempt_after_a_lost_worker_is_corrected_whatever_the_parts_say(tmp_path):
    again = {"at_ms": 300, "prompt": 30}
    home = ledger_of(
        tmp_path,
        part(**MARKED_PREFILL),
        part(**{**MARKED_DECODE, "ends": ("interrupted",), "output": 14}),
        part(**{**MARKED_PREFILL, **again}),
        part(**{**MARKED_DECODE, **again, "at_ms": 350, "output": 8}),
    )
    report, plain = counted(home)
    assert (report, plain) == ((1, 18, 4, 20), (2, 48, 8, 22))


BROKEN = {"ends": ("interrupted",), "output": 14}
MIGRATED = [
    part("aggregated", cached=4, gpu=(30, 70), **BROKEN),
    part("aggregated", at_ms=200, prompt=30, output=8, gpu=(40, 50), cached=16),
]
FROM_NOTHING = [part("aggregated", **BROKEN), part("aggregated", at_ms=200, prompt=18, output=8)]
HALVES_AGAIN = [
    part(**MARKED_PREFILL),
    part(**{**MARKED_DECODE, **BROKEN}),
    part(**{**MARKED_PREFILL, "at_ms": 300, "prompt": 30}),
    part(**{**MARKED_DECODE, "at_ms": 350, "prompt": 30, "output": 8}),
]


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize(
    ("parts_", "once", "counters"),
    [
        (MIGRATED, (1, 18, 4, 20), (1, 18, 4, 20)),
        (FROM_NOTHING, (1, 18, 0, 8), (1, 18, 0, 14)),
        (HALVES_AGAIN, (1, 18, 4, 20), (1, 18, 4, 20)),
    ],
)
def test_what_a_later_attempt_adds_is_settled_when_it_is_booked(tmp_path, parts_, once, counters, one_by_one):
    """Where all begins from nothing, the counters keep what the first worker computed: they never fall."""
    home, added = tmp_path / "home", Totals()
    home.mkdir()
    ledger = Ledger(home / "ledger.sqlite")
    for some in [[one] for one in parts_] if one_by_one else [parts_]:
        made = turn(some, window=next(numbers))
        made.records[:] = settled(ledger.connection, made.records)
        write(ledger, made)
        added.add(made.postings, made.records, made.meter)
    loaded = Totals()
    loaded.load(ledger.connection, [])
    ledger.close()
    assert counted(home) == (once, counters)
    assert (added.tokens, added.requests) == (loaded.tokens, loaded.requests)
    assert sum(added.requests.values()) == 1
    assert (sum(added.tokens.values())) == sum(counters[1:2]) + counters[3]
    with open_ledger(home) as store:
        (whole,) = join(parts([store], ALL, Filter(), "ended", 100), NOW_NS, WAIT_NS)
        numbered = next(store.rows("SELECT max(attempt) FROM usage"))
    assert (whole.input_tokens, whole.output_tokens) == (once[1], once[3])
    assert numbered == (2,)


def test_an_attempt_that_is_booked_before_the_one_that_it_follows_is_counted_once_too(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    ledger = Ledger(home / "ledger.sqlite")
    for one in reversed(MIGRATED):
        made = turn([one], window=next(numbers))
        made.records[:] = settled(ledger.connection, made.records)
        write(ledger, made)
    ledger.close()
    assert counted(home)[0] == (1, 18, 4, 20)


def test_another_tenants_part_under_the_same_key_is_none_of_ones_own(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    ledger = Ledger(home / "ledger.sqlite")
    mine, other = part("aggregated", **BROKEN), part("aggregated", at_ms=200, tenant="globex", part=2)
    settled_ones = settled(ledger.connection, [(mine, USD), (other, USD)])
    assert settled_ones == [(mine, USD), (other, USD)]
    write(ledger, turn([mine, other]))
    ledger.close()
    assert [row["parts"] for row in listed(home)] == [1, 1]


def test_the_halves_of_a_request_of_disaggregated_servers_of_tensorrt_llm_count_once(tmp_path):
    home = ledger_of(tmp_path, *(part(**half, request_key=DISAGGREGATED + "7") for half in (PREFILL, DECODE)))
    assert counted(home)[0] == (1, 18, 4, 12)


def test_the_prompts_of_one_call_of_a_frontend_are_one_request(tmp_path):
    prompts = [part("aggregated", f"u/{index}", part=1 + (index > 0), output=5) for index in range(3)]
    home = ledger_of(tmp_path, *prompts)
    assert counted(home) == ((1, 54, 0, 15),) * 2


def test_the_report_by_role_and_worker_splits_the_time_and_counts_each_request_once(tmp_path):
    home = ledger_of(tmp_path, part(**PREFILL), part(**DECODE), part("prefill", "s", gpu=(9, 0)))
    with open_ledger(home) as store:
        by = ("role", "worker")
        summary = summarize(by, used(store, ALL, by), ended(store, ALL, by), UTC)
    lines = {line.keys: line for line in summary.lines}
    assert lines["prefill", "worker-prefill"].gpu_ns == 39 * MS
    assert lines["decode", "worker-decode"].gpu_ns == 75 * MS
    total = summary.totals[0]
    assert (total.requests, total.input_tokens, total.output_tokens) == (2, 36, 12)


@pytest.mark.parametrize("words", [["--joined"], ["--joined", "--id", "chatcmpl-r"], ["--joined", "--format", "json"]])
def test_the_command_shows_whole_requests(tmp_path, words):
    home = ledger_of(tmp_path, part(**PREFILL), part(**DECODE))
    done = CliRunner().invoke(cli, ["requests", "--home", str(home), *words], catch_exceptions=False)
    shown = done.output
    assert "acme" in shown
    assert ("prefill + decode" in shown) or '"output_tokens": 12' in shown
    assert ("worker-decode" in shown) == (len(words) == 3)
