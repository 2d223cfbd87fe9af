"""Real NVIDIA Dynamos with real vLLM workers (CPU build): several workers, one bill.

A deployment takes a minute or two to start on two cores: each does all its traffic once, and is looked at afterwards.
"""

import json
import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

import pytest
from costtrace_lab.demo.dynamo import Dynamo
from costtrace_lab.demo.processes import wait_until
from home import WINDOW_S, Home
from http_client import CHAT, COMPLETIONS, Ask, Reply, Stream, ask, ask_all, body
from otlp_receiver import Receiver, attributes, listening
from served_vllm import PRICES, end_agent
from vllm_server import BUILD, need

from costtrace.core.errors import ServerError
from costtrace.core.rows import JOINED
from costtrace.ledger.answers import Period
from costtrace.ledger.reader import Filter, open_ledger
from costtrace.reports.requests.joined import join
from costtrace.reports.requests.joined_query import parts

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

VERSIONS = {"1.6.1": BUILD / "dynamo"}
OK = HTTPStatus.OK
META = "x-dynamo-meta-tenant"
WAIT_NS = 60 * 10**9
BOOKED_S = 60
PROMPTS = ("Hello there", "What does a request cost?", "A longer question, so that a prompt has some tokens. " * 4)


def trace_of(number: int) -> str:
    return f"{number + 1:032x}"


def wanted(number: int, tenant: str | None, tokens: int = 8, **more) -> Ask:
    """One request, with a trace and (where it is not None) a tenant of its own."""
    text = PROMPTS[number % len(PROMPTS)] + f" ({number})"
    content = body(tokens, **more)
    if more.get("stream"):
        content["stream_options"] = {"include_usage": True}
    if number % 2:
        path, content = CHAT, {**content, "messages": [{"role": "user", "content": text}]}
    else:
        path, content = COMPLETIONS, {**content, "prompt": text}
    headers = [("traceparent", f"00-{trace_of(number)}-{'cd' * 8}-01")]
    return Ask(path, content, headers if tenant is None else [*headers, (META, tenant)])


def key_of(reply: Reply) -> str:
    return JOINED + reply.id.removeprefix("chatcmpl-").removeprefix("cmpl-")


@dataclass
class Seen:
    """What a deployment was asked and answered, and its books."""

    home: Home
    receiver: Receiver
    replies: dict[int, Reply] = field(default_factory=dict)
    tenants: dict[int, str] = field(default_factory=dict)

    def wholes(self):
        """All requests with all their parts, long after."""
        with open_ledger(self.home.path) as store:
            all_parts = parts([store], Period(0, 1 << 62), Filter(), "ended", 10_000)
        newest = max(part.record.ended_ns for part in all_parts)
        return {whole.request_key: whole for whole in join(all_parts, newest + WAIT_NS, WAIT_NS)}

    def records(self, key: str):
        return self.home.rows("SELECT * FROM usage WHERE request_key = ? ORDER BY arrived_ns", key)

    def dynamos_spans(self, number: int):
        """What Dynamo's own processes exported of a request's trace, by span id."""
        spans = [span for span in self.receiver.spans if span.trace_id.hex() == trace_of(number)]
        return {span.span_id: span for span in spans if not span.name.startswith("costtrace.")}

    def workers_spans(self, number: int):
        """Of those, the ones of its workers."""
        return {name: span for name, span in self.dynamos_spans(number).items() if span.name == "handle_payload"}

    def wait_for_dynamos_spans(self, requests: int, each: int) -> bool:
        return self.receiver.wait(lambda: all(len(self.workers_spans(n)) >= each for n in range(requests)), 60)

    def wait_for(self, reply: Reply, count: int) -> None:
        key = key_of(reply)
        assert wait_until(lambda: len(self.records(key)) >= count, BOOKED_S, 0.1), (
            f"{key} has {[tuple(row)[:8] for row in self.records(key)]}; {self.home.log()[-2000:]}"
        )


@contextmanager
def deployed(version: str, model: Path, folder: Path, *frontend: str, **variables: str | None):
    """A frontend whose workers are added by the caller, an agent, and a receiver of spans."""
    environment = need(VERSIONS[version] / "env.json", "setup-dynamo").parent
    (folder / "prices.yaml").write_text(PRICES)
    receiver = Receiver()
    with listening(receiver) as there:
        settings = {
            "COSTTRACE_PRICES": str(folder / "prices.yaml"),
            "COSTTRACE_WINDOW_S": str(WINDOW_S),
            "COSTTRACE_AGENT_IDLE_EXIT_S": "1",
            "COSTTRACE_PROMETHEUS_PORT": "0",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{there.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{there.port}/v1/traces",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{there.port}/v1/logs",
            "DYN_FPM_TRACE": "1",
            "DYN_FPM_MODE": "full",
            "DYN_FPM_OUTPUT_PATH": str(folder / "fpm"),
        }
        inherited = dict.fromkeys((n for n in os.environ if n.startswith(("OTEL_", "COSTTRACE_"))), None)
        home = Home(folder / "home", settings)
        try:
            with Dynamo(
                environment,
                model,
                folder,
                home.path,
                frontend=frontend,
                variables={**inherited, **settings, **variables},
            ) as dynamo:
                try:
                    yield dynamo, Seen(home, receiver)
                except (AssertionError, ServerError) as error:
                    if lost := dynamo.expired():
                        raise DroppedError(f"Dynamo dropped {lost}") from error
                    raise
        finally:
            end_agent(home)


class DroppedError(Exception):
    """Dynamo itself took a worker off its list: this machine stood still, or was too busy, for ten seconds."""


def served_once(deploy: Callable[[Path], Seen], folders: pytest.TempPathFactory, name: str) -> Seen:
    """Deploy, again where Dynamo dropped a worker of the deployment before. Raises: DroppedError, the fourth time."""
    for _ in range(3):
        with suppress(DroppedError):
            return deploy(folders.mktemp(name))
    return deploy(folders.mktemp(name))


def close_books(dynamo: Dynamo, seen: Seen) -> None:
    """End the workers and wait until all that they wrote is booked."""
    dynamo.stop()
    seen.home.wait_closed(BOOKED_S)
    roots = seen.home.one("SELECT count(*) FROM usage")
    seen.receiver.wait(lambda: len(seen.receiver.roots) >= roots, 30)


# -- aggregated: two workers, one of which is killed while both are at work

TENANTS = ("acme", "globex", "initech")
LONG, CANCELLED, NOBODY, WARM_UPS, TRACED = (100, 102), 104, 106, (108, 109), 12
LONG_TOKENS = 600


@pytest.fixture(scope="module")
def aggregated(tiny_model, tmp_path_factory):
    return served_once(partial(serve_aggregated, tiny_model), tmp_path_factory, "dynamo-aggregated")


def serve_aggregated(tiny_model: Path, folder: Path) -> Seen:
    with deployed("1.6.1", tiny_model, folder, "--migration-limit", "3", OTEL_EXPORT_ENABLED="true") as (dynamo, seen):
        dynamo.vllm_worker("one")
        dynamo.vllm_worker("two")
        wait_for_engines(dynamo, seen, 2)
        serve(dynamo, seen)
        seen.replies[NOBODY], seen.tenants[NOBODY] = ask(dynamo.url, wanted(NOBODY, None)), "default"
        leaving = wanted(CANCELLED, "acme", LONG_TOKENS, stream=True)
        seen.replies[CANCELLED] = ask(dynamo.url, replace(leaving, hang_up_after=4))
        seen.wait_for(seen.replies[CANCELLED], 1)
        assert seen.wait_for_dynamos_spans(TRACED, 1)  # what a killed worker has not exported is gone
        streams = {number: Stream(dynamo.url, wanted(number, "globex", LONG_TOKENS, stream=True)) for number in LONG}
        assert wait_until(lambda: all(stream.has(8) for stream in streams.values()), 120, 0.005)
        dynamo.members.pop("one").kill()
        for number, stream in streams.items():
            stream.join(300)
            seen.replies[number], seen.tenants[number] = stream.reply, "globex"
            assert stream.reply.status == OK
        close_books(dynamo, seen)
        return seen


def serve(dynamo: Dynamo, seen: Seen) -> None:
    """Ask for three tenants, two requests at a time."""
    asks = {number: wanted(number, TENANTS[number % 3], 4 + number) for number in range(TRACED)}
    seen.replies |= dict(zip(asks, ask_all(dynamo.url, list(asks.values()), workers=2), strict=True))
    seen.tenants |= {number: TENANTS[number % 3] for number in asks}
    for number, reply in seen.replies.items():
        assert reply.status == OK, (number, reply, tails(dynamo))


def wait_for_engines(dynamo: Dynamo, seen: Seen, count: int) -> None:
    """Until so many engines have each served a request, and both routes are there."""
    dynamo.wait()

    def all_have() -> bool:
        assert not dynamo.expired()
        both = [ask(dynamo.url, wanted(number, "warm-up", 2)) for number in WARM_UPS]
        served = len(seen.home.rows("SELECT DISTINCT engine_id FROM usage"))
        return served >= count and all(reply.status == OK for reply in both)

    assert wait_until(all_have, 300, 0.5), tails(dynamo)


def tails(dynamo: Dynamo) -> str:
    """What everybody said last."""
    return "\n".join(f"{member.name} ended: {member.ended}\n{member.tail()}" for member in dynamo.members.values())


def check_answered(seen: Seen, numbers) -> None:
    """Each of these requests is one whole, as its client saw it."""
    wholes = seen.wholes()
    for number in numbers:
        reply = seen.replies[number]
        assert reply.status == OK, reply
        whole = wholes[key_of(reply)]
        # After a migration the frontend tells the client the prompt of the last attempt.
        assert reply.tokens == (whole.attempts[-1].part.record.input_tokens, whole.output_tokens)
        assert whole.input_tokens == whole.attempts[0].part.record.input_tokens
        assert (whole.tenant, whole.traceparent[3:35]) == (seen.tenants[number], trace_of(number))
        assert (whole.finality, whole.notes) == ("final", ())
        assert whole.gpu_ns > 0
        assert whole.cost_nano == sum(attempt.part.record.cost_nano for attempt in whole.attempts)


def test_the_books_of_all_workers_are_closed_and_balance(aggregated):
    aggregated.home.check_closed_books()
    aggregated.home.verify()
    assert len(aggregated.home.rows("SELECT engine_id FROM engine")) == 2
    assert aggregated.home.rows("SELECT lost_hooks FROM engine WHERE lost_hooks != '[]'") == []


def test_every_request_of_three_tenants_is_billed_once_with_the_tokens_its_client_was_told(aggregated):
    check_answered(aggregated, range(TRACED))
    for number in range(TRACED):
        (row,) = aggregated.records(key_of(aggregated.replies[number]))
        assert (row["role"], row["tenant_source"], row["wasted_ns"]) == ("aggregated", "metadata:tenant", 0)


def test_a_request_without_metadata_is_the_default_tenants_and_has_its_trace(aggregated):
    check_answered(aggregated, [NOBODY])
    (row,) = aggregated.records(key_of(aggregated.replies[NOBODY]))
    assert row["tenant_source"] == "default"


def test_a_client_that_cancels_pays_for_what_was_computed_and_all_of_it_is_wasted(aggregated):
    (row,) = aggregated.records(key_of(aggregated.replies[CANCELLED]))
    assert row["finish_reasons"] == '["abort"]'
    assert row["wasted_ns"] == row["gpu_ns"] > 0
    assert 3 <= row["output_tokens"] < LONG_TOKENS


def test_an_answer_whose_worker_was_killed_is_one_request_of_two_attempts(aggregated):
    check_answered(aggregated, LONG)
    wholes = aggregated.wholes()
    long = [wholes[key_of(aggregated.replies[number])] for number in LONG]
    assert {whole.output_tokens for whole in long} == {LONG_TOKENS}
    migrated = [whole for whole in long if len(whole.attempts) > 1]
    assert len(migrated) >= 1, "one of the two was on the worker that was killed"
    for whole in migrated:
        first, second = whole.attempts
        assert (first.number, second.number) == (1, 2)
        assert first.part.record.finish_reasons == ("interrupted",)
        assert first.part.worker != second.part.worker
        assert second.part.record.input_tokens == whole.input_tokens + first.output_tokens
        assert second.wasted_ns == second.part.record.prefill_ns > 0, "the prompt and what the client had, again"
        assert whole.wasted_ns < whole.gpu_ns


def test_the_spans_of_a_request_stand_in_its_trace_under_a_span_of_dynamos(aggregated):
    for number in range(TRACED):
        spans = [span for span in aggregated.receiver.roots if span.trace_id.hex() == trace_of(number)]
        assert len(spans) == 1
        own = aggregated.dynamos_spans(number)
        assert own[spans[0].parent_span_id].name == "handle_payload", "the worker's, as Dynamo itself exported it"
        assert {span.parent_span_id.hex() for span in own.values()} >= {"cd" * 8}, "the frontend's, under the client's"
        assert attributes(spans[0])["tenant.id"] == aggregated.tenants[number]


def test_the_report_counts_each_request_once_and_splits_by_worker(aggregated):
    done = aggregated.home.command("report", "--by", "role,worker", "--format", "json")
    assert done.returncode == 0, done.stderr
    lines = [line for line in json.loads(done.stdout)["summary"] if line.get("kind") == "request"]
    assert {line["role"] for line in lines} == {"aggregated"}
    assert len({line["worker"] for line in lines}) == 2
    shown = aggregated.home.command("requests", "--joined", "--limit", "1000", "--format", "json")
    assert len(json.loads(shown.stdout)["requests"]) == sum(line["requests"] for line in lines)


# -- disaggregated


@pytest.fixture(scope="module")
def disaggregated(tiny_model, tmp_path_factory):
    return served_once(partial(serve_disaggregated, tiny_model), tmp_path_factory, "dynamo-disaggregated")


def serve_disaggregated(tiny_model: Path, folder: Path) -> Seen:
    """Prefill and decode, KV over NIXL, ended."""
    with deployed("1.6.1", tiny_model, folder, "--enforce-disagg", OTEL_EXPORT_ENABLED="true") as (dynamo, seen):
        dynamo.vllm_worker("prefill", "prefill")
        dynamo.vllm_worker("decode", "decode")
        wait_for_engines(dynamo, seen, 2)
        serve(dynamo, seen)
        for reply in seen.replies.values():
            seen.wait_for(reply, 2)
        assert seen.wait_for_dynamos_spans(TRACED, 2)
        for name in ("prefill", "decode"):  # on SIGTERM they would not end within 45 s
            dynamo.members.pop(name).kill()
        close_books(dynamo, seen)
        return seen


def test_a_disaggregated_request_is_one_total_of_a_prefill_and_a_decode_part(disaggregated):
    wholes = disaggregated.wholes()
    for number in range(TRACED):
        reply = disaggregated.replies[number]
        assert reply.status == OK, reply
        whole = wholes[key_of(reply)]
        prefill, decode = (attempt.part for attempt in whole.attempts)
        assert (prefill.record.role, decode.record.role) == ("prefill", "decode")
        assert prefill.record.engine_id != decode.record.engine_id
        assert prefill.record.tenant == decode.record.tenant == disaggregated.tenants[number]
        assert (whole.input_tokens, whole.output_tokens) == reply.tokens
        assert whole.transferred_tokens > 0
        assert whole.gpu_ns == prefill.record.gpu_ns + decode.record.gpu_ns
        assert (whole.finality, whole.notes, whole.wasted_ns) == ("final", (), 0)


def test_both_parts_are_in_the_clients_trace_under_the_spans_of_their_own_workers(disaggregated):
    traces = disaggregated.wholes()
    for number in range(TRACED):
        whole = traces[key_of(disaggregated.replies[number])]
        in_traces = {attempt.part.record.traceparent[3:35] for attempt in whole.attempts}
        assert in_traces == {trace_of(number)}
        roots = [span for span in disaggregated.receiver.roots if span.trace_id.hex() == trace_of(number)]
        assert len(roots) == 2
        assert {span.parent_span_id for span in roots} == set(disaggregated.workers_spans(number))


def test_both_engines_meters_are_what_requests_idle_and_overhead_add_up_to(disaggregated):
    disaggregated.home.check_closed_books()
    disaggregated.home.verify()
    roles = {row["role"]: row for row in disaggregated.home.rows("SELECT * FROM engine")}
    assert set(roles) == {"prefill", "decode"}
    for engine in roles.values():
        assert json.loads(engine["settings"])["dynamo_worker"]
        assert json.loads(engine["settings"])["scheduler"] == "InstrumentedScheduler", "Dynamo's own goes on working"
    report = disaggregated.home.command("report", "--by", "role", "--format", "json")
    lines = json.loads(report.stdout)["summary"]
    metered = disaggregated.home.one("SELECT sum(request_ns + idle_ns + overhead_ns + unobserved_ns) FROM meter")
    kinds = {"request", "idle", "overhead", "unobserved"}
    assert sum(line["gpu_ns"] for line in lines if line["kind"] in kinds) == metered


# -- without tracing, and with nothing sampled: one worker, so that nobody shares its device


QUIET = 6


@pytest.mark.parametrize("what", ["tracing off", "sampling 0"])
def test_without_traces_the_bill_is_the_same_and_fits_the_workers_own_forward_passes(
    tiny_model, tmp_path_factory, what
):
    off = what == "tracing off"
    seen = served_once(partial(serve_quietly, tiny_model, what), tmp_path_factory, "dynamo-quiet")
    seen.home.check_closed_books()
    seen.home.verify()
    wholes = seen.wholes()
    for number, reply in seen.replies.items():
        assert reply.status == OK, reply
        whole = wholes[key_of(reply)]
        assert (whole.input_tokens, whole.output_tokens, whole.finality) == (*reply.tokens, "final")
        assert whole.tenant == TENANTS[number % 3]
        assert len(seen.records(key_of(reply))) == 1
        if off:
            assert whole.traceparent == ""
        else:
            assert whole.traceparent.endswith("-00"), "not sampled"
    assert not [span for span in seen.receiver.spans if not span.name.startswith("costtrace.")]
    words = [word for path in sorted(seen.home.path.parent.glob("fpm*.jsonl.gz")) for word in ("--passes", str(path))]
    done = seen.home.command("dynamo", "check", *words, "--format", "json")
    (row,) = json.loads(done.stdout)["workers"]
    assert (row["lost_passes"], row["shared_device"], row["role"]) == (0, False, "aggregated")
    assert row["residual_ns"] == row["attributed_ns"] - row["passes_ns"]
    assert abs(row["residual_ppm"]) < 250_000


def serve_quietly(tiny_model: Path, what: str, folder: Path) -> Seen:
    off = what == "tracing off"
    variables = (
        {"DYN_LOGGING_JSONL": None, "DYN_METADATA_HEADER": "x-acme-"}
        if off
        else {"OTEL_EXPORT_ENABLED": "true", "OTEL_TRACES_SAMPLE_RATIO": "0"}
    )
    with deployed("1.6.1", tiny_model, folder, **variables) as (dynamo, seen):
        dynamo.vllm_worker("one")
        dynamo.wait()
        asks = {}
        for number in range(QUIET):
            asked = wanted(number, None, 16 + number)
            name = "x-acme-tenant" if off else META
            asks[number] = replace(asked, headers=[(name, TENANTS[number % 3])])
        seen.replies |= dict(zip(asks, ask_all(dynamo.url, list(asks.values())), strict=True))
        assert {reply.status for reply in seen.replies.values()} == {OK}
        close_books(dynamo, seen)
    return seen


# -- Dynamo's simulated workers


def test_the_sweep_costs_both_deployments_at_each_load_by_the_tokens_of_the_frontends_usage(tiny_model):
    from evaluation import dynamo_sweep

    environment = need(VERSIONS["1.6.1"] / "env.json", "setup-dynamo").parent
    points = dynamo_sweep.sweep(environment, tiny_model, (1, 4), 1)
    assert [(point.how, point.clients) for point in points] == [
        (how, clients) for how in ("aggregated", "disaggregated") for clients in (1, 4)
    ]
    for point in points:
        assert point.output_tokens == point.requests * dynamo_sweep.ANSWER_TOKENS
        assert point.input_tokens > point.requests * dynamo_sweep.PROMPT_WORDS
        assert point.usd_per_million_output_tokens() > 0
    assert dynamo_sweep.report(points)["simulated"] is True
