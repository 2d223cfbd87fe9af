"""What an answer has probably cost: by means that add up, of whom the asker may know, or not at all."""

import asyncio
import json
import os
import stat
import time
from types import SimpleNamespace

import pytest
from costtrace_vllm import contract, hooks
from costtrace_vllm.process import process
from costtrace_vllm.server_side import answer_estimates, requests
from honest_ledger import PLANS, WALL_NS, write
from hypothesis import given
from hypothesis import strategies as st

from costtrace.agent.publish_estimates import EstimatePublisher
from costtrace.capture.node_files import cost_estimates
from costtrace.capture.node_files.cost_estimates import MODEL, TENANT, Reader, Used, estimate
from costtrace.core import guard
from costtrace.core.errors import CosttraceError
from costtrace.core.rows import Means
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.recent_means import LEAST_REQUESTS, LONGEST_NS, recent_means
from costtrace.ledger.store import Ledger

NOW_NS = WALL_NS + 200 * 10**9
COUNT = st.integers(1, 10**12)


def means(**changes):
    """1,000 prompt tokens, 400 of them cached, at 6,000 nano; 100 of answer at 5,000."""
    made = Means(
        *("m", "acme", "USD", 12, 1_790_000_000, 1_790_000_060, 1_000, 400, 100),
        *(6_000, 5_000, 600, 500, 60, 50, False),
    )
    return Means(*(changes.get(name, getattr(made, name)) for name in Means.__struct_fields__))


@pytest.fixture(autouse=True)
def _fresh():
    guard.failures.clear()
    process.status.lost.clear()
    yield
    process.status.lost.clear()
    guard.failures.clear()


# -- the arithmetic --------------------------------------------------------------------------------------------------


@given(COUNT, COUNT, COUNT, COUNT, COUNT)
def test_at_its_own_tokens_a_mean_is_exactly_what_they_cost(prefilled, decoded, inputs, cached, outputs):
    made = means(
        input_tokens=inputs + cached, cached_tokens=cached, output_tokens=outputs,
        prefill_nano=prefilled, decode_nano=decoded,
    )  # fmt: skip
    for said in (cached, None):
        assert estimate(made, Used(inputs + cached, said, outputs)).nano == prefilled + decoded


def test_what_is_known_to_be_cached_costs_nothing_and_else_the_mean_share_of_it_is_taken():
    assert estimate(means(), Used(100, 80, 10)).nano == 20 * 10 + 10 * 50
    assert estimate(means(), Used(100, 0, 10)).nano == 100 * 10 + 10 * 50
    assert estimate(means(), Used(100, None, 10)).nano == 100 * 6 + 10 * 50


@pytest.mark.parametrize(
    ("made", "used"),
    [
        (means(output_tokens=0), Used(10, None, 1)),
        (means(input_tokens=0), Used(10, None, 1)),
        (means(cached_tokens=1_000), Used(10, 3, 1)),
        (means(), Used(10, 11, 1)),
    ],
    ids=["no answers", "no prompts", "no prompt that was not cached", "more cached than there were"],
)
def test_what_no_mean_speaks_of_is_unknown_and_not_0(made, used):
    assert estimate(made, used) is None


def test_energy_that_is_not_known_is_not_stated():
    assert "energy_j" not in estimate(means(decode_uj=None), Used(10, None, 1)).details()
    assert estimate(means(), Used(1_000, None, 100)).details()["energy_j"] == 110e-6


def test_it_says_that_it_is_an_estimate_of_what_and_whether_a_device_is_simulated():
    stated = estimate(means(), Used(1_000, None, 100)).details()
    assert stated == {
        "estimate": True,
        "amount": "0.000011000",
        "currency": "USD",
        "gpu_time_s": 1.1e-06,
        "basis": "mean per token of 12 requests of this tenant for this model; idle is not in it",
        "since": "2026-09-21T14:13:20Z",
        "until": "2026-09-21T14:14:20Z",
        "energy_j": 110e-6,
    }
    assert estimate(means(simulated=True), Used(1, None, 1)).details()["simulated"] is True
    assert "of all tenants for" in estimate(means(tenant=""), Used(1, None, 1)).details()["basis"]


# -- the file --------------------------------------------------------------------------------------------------------


def asked(home, scope=TENANT, model="m", tenant="acme"):
    return Reader(home, scope).means(model, tenant)


def test_a_tenant_is_told_its_own_means_and_nobody_elses(tmp_path):
    cost_estimates.write(tmp_path, TENANT, [means(), means(tenant="globex", requests=99)], time.time())
    assert asked(tmp_path) == means()
    assert asked(tmp_path, tenant="globex").requests == 99
    assert asked(tmp_path, tenant="initech") is None
    assert asked(tmp_path, tenant="") is None
    assert asked(tmp_path, model="other") is None
    assert stat.S_IMODE(cost_estimates.path_below(tmp_path).stat().st_mode) == 0o600


def test_the_means_of_a_model_are_for_a_server_that_shows_them(tmp_path):
    cost_estimates.write(tmp_path, MODEL, [means(tenant="")], time.time())
    assert asked(tmp_path, MODEL, tenant="anybody") == means(tenant="")
    assert asked(tmp_path, TENANT) is None
    assert asked(tmp_path, TENANT, tenant="") is None
    cost_estimates.write(tmp_path, TENANT, [means()], time.time())
    assert asked(tmp_path, MODEL) is None


@pytest.mark.parametrize("age_s", [cost_estimates.VALID_S + 1, -60], ids=["too old", "of the future"])
def test_what_an_agent_said_counts_for_a_while_only(tmp_path, age_s):
    cost_estimates.write(tmp_path, TENANT, [means()], time.time() - age_s)
    assert asked(tmp_path) is None


@pytest.mark.swallows
@pytest.mark.parametrize("content", ["{", "[]", '{"written_s": 1}', '{"written_s":1,"scope":"tenant","means":[["m"]]}'])
def test_a_damaged_file_says_nothing_and_is_counted(tmp_path, content):
    cost_estimates.path_below(tmp_path).write_text(content)
    assert asked(tmp_path) is None
    assert guard.failures["cost_estimates"] == 1


def test_a_file_that_changes_or_goes_is_noticed_and_one_that_stays_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_estimates, "LOOK_EVERY_S", 0)
    reader, path = Reader(tmp_path, TENANT), cost_estimates.path_below(tmp_path)
    assert reader.means("m", "acme") is None
    assert not guard.failures, "no file is no error"
    for number, count in enumerate((20, 30), 1):
        cost_estimates.write(tmp_path, TENANT, [means(requests=count)], time.time())
        os.utime(path, ns=(number, number))
        assert reader.means("m", "acme").requests == count
    path.write_text("{")
    os.utime(path, ns=(2, 2))
    assert reader.means("m", "acme").requests == 30
    path.unlink()
    assert reader.means("m", "acme") is None


# -- the agent's side ------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    write(tmp_path, plans=(PLANS[0], PLANS[2]), requests_per_window=9)  # one in USD with energy, one without a price
    return tmp_path


def change(home, sql):
    ledger = Ledger(home / "ledger.sqlite")
    with ledger.transaction():
        ledger.connection.execute(sql)
    ledger.close()


def found(home, *, by_tenant=True, now_ns=NOW_NS):
    with open_ledger(home) as store:
        return recent_means(store, now_ns, by_tenant=by_tenant)


def usage(home):
    with open_ledger(home) as store:
        names = ("tenant", "input_tokens", "output_tokens", "prefill_nano", "decode_nano", "prefill_ns", "decode_ns")
        return [
            dict(zip(names, row, strict=True))
            for row in store.rows(f"SELECT {', '.join(names)} FROM usage WHERE cost_nano IS NOT NULL")
        ]


@pytest.mark.parametrize("by_tenant", [True, False])
def test_the_means_are_the_sums_of_the_priced_records_of_each(home, by_tenant):
    rows, got = usage(home), found(home, by_tenant=by_tenant)
    assert {each.tenant for each in got} == ({"acme", "blue"} if by_tenant else {""})
    for each in got:
        mine = [row for row in rows if row["tenant"] == each.tenant or not by_tenant]
        assert each.requests == len(mine) >= LEAST_REQUESTS
        for name in ("input_tokens", "output_tokens", "prefill_nano", "decode_nano", "prefill_ns", "decode_ns"):
            assert getattr(each, name) == sum(row[name] for row in mine)
        assert (each.currency, each.simulated, each.prefill_uj) == ("USD", True, None)


def test_energy_is_known_where_it_is_of_every_record(home):
    change(home, "UPDATE usage SET gap_ns = 0, prefill_uj = 3, decode_uj = 5")
    (only,) = found(home, by_tenant=False)
    assert (only.prefill_uj, only.decode_uj) == (3 * only.requests, 5 * only.requests)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE usage SET role = 'decode'",
        "UPDATE usage SET prefill_nano = NULL",
        "DELETE FROM usage WHERE usage_id > 9",
        "DELETE FROM usage",
    ],
    ids=["parts of requests", "no price", "too few", "none"],
)
def test_what_makes_no_mean_makes_none(home, sql):
    change(home, sql)
    assert found(home) == []


def test_what_is_long_ago_makes_no_mean(home):
    assert found(home, now_ns=NOW_NS + LONGEST_NS + 10**12) == []


def test_of_two_currencies_the_newest_counts(home):
    change(home, "UPDATE usage SET currency = 'EUR' WHERE usage_id > 20 AND currency != ''")
    assert {each.currency for each in found(home)} == {"EUR"}


def test_the_agent_writes_what_a_server_then_reads(home):
    got = EstimatePublisher(home, TENANT).turn(time.time_ns() // 10**9 * 10**9)
    assert got == [], "the ledger's month is another one"
    change(home, f"UPDATE usage SET ended_ns = {time.time_ns()}")
    got = EstimatePublisher(home, TENANT).turn(time.time_ns())
    assert asked(home, model="m-large") == next(each for each in got if each.tenant == "acme")


def test_an_agent_that_cannot_read_its_ledger_leaves_what_was_said_to_grow_old(home):
    cost_estimates.write(home, TENANT, [means()], time.time())
    (home / "ledger.sqlite").unlink()
    with pytest.raises(CosttraceError):
        EstimatePublisher(home, TENANT).turn(NOW_NS)
    assert asked(home) == means()


# -- the server's side -----------------------------------------------------------------------------------------------


class Base:
    """As much of a class of vLLM's as is held on to: it makes objects, by an `__init__` that it inherits."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


class Answer(Base):
    model: str
    usage: object


def use(prompt=1_000, answer=100, **details):
    stated = SimpleNamespace(**details) if details else None
    return SimpleNamespace(prompt_tokens=prompt, completion_tokens=answer, prompt_tokens_details=stated)


@pytest.fixture
def answering(tmp_path, monkeypatch):
    """Make an answer on behalf of a caller, as a server does; the answer and the headers of its response."""
    process.forget()

    def run(tenant="acme", scope=TENANT, wrap=requests.wrap_answer, **fields):
        monkeypatch.setenv("COSTTRACE_HOME", str(tmp_path))
        monkeypatch.setenv("COSTTRACE_COST_ESTIMATES", scope)
        process.forget()
        owner = type("Owner", (Answer,), {})
        owner.__init__ = wrap(owner.__init__)
        made, sent = [], []

        async def send(message):
            sent.append(message)

        async def original(self, scope, receive, send):
            scope.setdefault("state", {})["request_metadata"] = SimpleNamespace(request_id="cmpl-7")
            caller = requests._caller.get()
            caller.identity = tenant and SimpleNamespace(tenant=tenant)
            made.append(owner(**{"model": "m", "usage": use(), **fields}))
            await send({"type": "http.response.start", "status": 200, "headers": []})

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "client": None}
        asyncio.run(requests.wrap_http(original)(None, scope, None, send))
        return made[0], dict(sent[0]["headers"])

    cost_estimates.write(tmp_path, TENANT, [means()], time.time())
    yield run
    process.forget()


def test_an_answer_states_its_estimate_in_its_usage_and_in_its_headers(answering):
    answer, headers = answering()
    assert answer.usage.cost == 11e-6
    assert answer.usage.cost_details["estimate"] is True
    assert answer.usage.cost_details["amount"] == "0.000011000"
    assert answer.usage.cost_details["request_id"] == "cmpl-7"
    json.dumps(answer.usage.cost_details)
    assert headers == {
        answer_estimates.REQUEST_ID: b"cmpl-7",
        answer_estimates.COST_ESTIMATE: b"0.000011000",
        answer_estimates.COST_CURRENCY: b"USD",
    }


def test_what_the_server_says_is_cached_is_not_estimated_as_computed(answering):
    assert answering(usage=use(cached_tokens=900))[0].usage.cost == (100 * 10 + 100 * 50) / 10**9
    assert answering(usage=use(cached_tokens=None))[0].usage.cost == 11e-6


def test_a_number_that_readers_take_for_dollars_is_in_dollars_only(answering, tmp_path):
    cost_estimates.write(tmp_path, TENANT, [means(currency="EUR")], time.time())
    answer, headers = answering()
    assert not hasattr(answer.usage, "cost")
    assert (answer.usage.cost_details["currency"], headers[answer_estimates.COST_CURRENCY]) == ("EUR", b"EUR")


@pytest.mark.parametrize(
    "case",
    [{"tenant": "globex"}, {"tenant": None}, {"model": "adapter"}, {"model": None}, {"scope": MODEL}, {"usage": None}],
    ids=["another tenant", "nobody", "another model", "no model", "another scope", "the middle of a stream"],
)
def test_where_nothing_is_known_an_answer_is_as_it_was(answering, case):
    answer, headers = answering(**case)
    assert not {"cost", "cost_details"} & vars(answer.usage or SimpleNamespace()).keys()
    assert headers == {answer_estimates.REQUEST_ID: b"cmpl-7"}
    assert not guard.failures


@pytest.mark.swallows
def test_an_error_of_ours_costs_the_estimate_and_not_the_answer(answering):
    answer, headers = answering(usage=SimpleNamespace(prompt_tokens=3))
    assert vars(answer.usage) == {"prompt_tokens": 3}
    assert headers == {answer_estimates.REQUEST_ID: b"cmpl-7"}
    assert guard.failures["vllm.estimate"] == 1


def test_an_answer_that_is_made_for_nobody_is_left_alone():
    answer = Answer(model="m", usage=use())
    requests.note_answer(answer)
    assert not hasattr(answer.usage, "cost_details")


@pytest.mark.swallows
def test_in_a_thread_that_knows_of_no_request_the_answer_still_knows_who_asked():
    seen = []
    build = requests.wrap_build(lambda _, ctx: seen.append(requests._caller.get()) or ctx)
    caller = object()
    for raw in (SimpleNamespace(scope={requests.SCOPE_KEY: caller}), SimpleNamespace(scope={}), None):
        ctx = SimpleNamespace(raw_request=raw)
        assert build(None, ctx) is ctx
        assert requests._caller.get() is None
    ctx = SimpleNamespace()  # of another version
    assert build(None, ctx) is ctx
    assert seen == [caller, None, None, None]
    assert guard.failures["vllm.estimate"] == 1


HOOK = next(hook for hook in contract.HOOKS if hook.name == "answer.chat")


def test_the_hook_is_laid_on_a_class_that_inherits_how_its_objects_are_made():
    owner, other = (type(HOOK.owner, (Answer,), {}) for _ in range(2))
    hooks._lay([HOOK], SimpleNamespace(ChatCompletionResponse=owner))
    assert owner.__init__.__wrapped__ is Base.__init__
    assert owner(model="m", usage=None).model == "m"
    assert other.__init__ is Base.__init__
    assert "answer.chat" in process.status.installed
    process.status.installed.remove("answer.chat")


def test_a_class_that_does_not_fit_is_left_alone_and_the_loss_is_said(caplog):
    owner = type(HOOK.owner, (Base,), {})
    hooks._lay([HOOK], SimpleNamespace(ChatCompletionResponse=owner))
    assert owner.__init__ is Base.__init__
    (line,) = [record.getMessage() for record in caplog.records]
    assert "`answer.chat` does not fit" in line
    assert "lost: estimates of the cost in answers" in line


@pytest.mark.parametrize(("on", "wanted"), [("off", 0), ("tenant", 6), ("model", 6)])
def test_answers_are_hooked_only_where_estimates_are_wanted(monkeypatch, on, wanted):
    monkeypatch.setenv("COSTTRACE_COST_ESTIMATES", on)
    process.forget()
    laid = []
    monkeypatch.setattr(hooks, "_done", False)
    monkeypatch.setattr(hooks, "_remember_start", lambda: None)
    monkeypatch.setattr(hooks.late, "when_theirs_are", lambda these, _: laid.extend(these))
    hooks.register()
    process.forget()
    assert len([hook for hook in laid if hook.name.startswith("answer")]) == wanted
    assert len(laid) == len(contract.HOOKS) - 6 + wanted
