"""Above a hard budget a tenant is refused; and whatever breaks, nobody else is."""

import asyncio
import json
import stat
import time

import pytest
from costtrace_vllm import frontend
from costtrace_vllm.process import process
from honest_ledger import PLANS, WALL_NS, write

from costtrace.agent.refuse_over_budget import BudgetRefusals
from costtrace.capture.node_files import refusals as admission
from costtrace.capture.node_files.refusals import EVERYBODY, Gate, Refusal
from costtrace.core import guard
from costtrace.core.errors import ConfigError

WHY = Refusal("acme-november", int(time.time()) + 3_600)


@pytest.fixture(autouse=True)
def _fresh():
    guard.failures.clear()


def refused(home, tenant):
    return Gate(home).refusal(tenant)


def test_who_is_named_is_refused_and_nobody_else(tmp_path):
    admission.write(tmp_path, {"acme": WHY}, time.time())
    assert refused(tmp_path, "acme") == WHY
    assert refused(tmp_path, "globex") is None
    assert stat.S_IMODE(admission.path_below(tmp_path).stat().st_mode) == 0o600


def test_a_spent_budget_of_all_refuses_all(tmp_path):
    admission.write(tmp_path, {EVERYBODY: WHY}, time.time())
    assert refused(tmp_path, "globex") == WHY


@pytest.mark.parametrize("age_s", [admission.VALID_S + 1, -60], ids=["too old", "of the future"])
def test_what_an_agent_said_counts_for_a_while_only(tmp_path, age_s):
    admission.write(tmp_path, {"acme": WHY}, time.time() - age_s)
    assert refused(tmp_path, "acme") is None


def test_a_period_that_is_over_refuses_nobody_though_the_agent_has_not_looked_yet(tmp_path):
    over = Refusal("yesterday", int(time.time()) - 1)
    admission.write(tmp_path, {"acme": over, EVERYBODY: over, "globex": Refusal("rolling", 0)}, time.time())
    assert refused(tmp_path, "acme") is None
    assert refused(tmp_path, "globex").budget == "rolling"
    admission.write(tmp_path, {"acme": over, EVERYBODY: WHY}, time.time())
    assert refused(tmp_path, "acme") == WHY, "the budget of all still refuses"


ENDS = ("1e999", str(10**20), "-1")


@pytest.mark.swallows
@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"written_s": 1}',
        '{"written_s": "x", "refused": {}}',
        *(f'{{"written_s": 1, "refused": {{"acme": ["b", {ends}]}}}}' for ends in ENDS),
    ],
)
def test_a_damaged_file_refuses_nobody_and_is_counted(tmp_path, content):
    admission.write(tmp_path, {"acme": WHY}, time.time())
    admission.path_below(tmp_path).write_text(content)
    assert refused(tmp_path, "acme") is None
    assert guard.failures["admission"] == 1


def test_no_file_is_no_error(tmp_path):
    assert refused(tmp_path, "acme") is None
    assert not guard.failures


# -- the agent's side ------------------------------------------------------------------------------------------------

BUDGETS = """
currency: USD
budgets:
  - {name: spent, tenant: acme, amount: 0.01, soft_percent: 1, hard_percent: 1}
  - {name: spent too but for one model, tenant: globex, model: m, amount: 0.01, soft_percent: 1, hard_percent: 1}
  - {name: enough, tenant: initech, amount: 1000}
"""


NOW_NS = WALL_NS + 1_200 * 10**9
"""In the ledger's own month, whenever the tests run."""


@pytest.fixture
def home(tmp_path):
    write(tmp_path, plans=(PLANS[0],))
    (tmp_path / "budgets.yaml").write_text(BUDGETS)
    return tmp_path


def test_the_agent_names_the_tenants_above_a_hard_budget_and_when_it_begins_anew(home):
    agent = BudgetRefusals(home, home / "budgets.yaml", lambda _: None)
    found = agent.turn(NOW_NS)
    assert list(found) == ["acme"]
    assert admission.read(home, NOW_NS / 10**9) == found
    assert found["acme"].budget == "spent"
    ends = time.gmtime(found["acme"].ends_s)
    assert (ends.tm_mday, ends.tm_hour, ends.tm_min, ends.tm_sec) == (1, 0, 0, 0)
    (home / "budgets.yaml").write_text("budgets: 3")
    with pytest.raises(ConfigError):
        agent.turn(NOW_NS)
    assert admission.read(home, NOW_NS / 10**9) == found, "what was said before counts until it is too old"


def test_of_several_budgets_the_one_that_refuses_longest_is_named(home):
    spent = "tenant: acme, amount: 0.01, soft_percent: 1, hard_percent: 1"
    lines = [f"  - {{name: {period}, {spent}, period: {period}}}\n" for period in ("day", "year", "month")]
    agent = BudgetRefusals(home, home / "budgets.yaml", lambda _: None)
    (home / "budgets.yaml").write_text("currency: USD\nbudgets:\n" + "".join(lines))
    assert agent.turn(NOW_NS)["acme"].budget == "year"
    lines.insert(0, f"  - {{name: rolling, {spent}, rolling_days: 7}}\n")
    (home / "budgets.yaml").write_text("currency: USD\nbudgets:\n" + "".join(lines))
    assert agent.turn(NOW_NS)["acme"] == Refusal("rolling", 0), "nobody can say when it ends"


def test_a_budget_that_cannot_be_judged_is_said_once_and_the_others_hold(home, caplog, monkeypatch):
    from costtrace.agent import refuse_over_budget as agents

    judge = agents.budget_status

    def budget_status(store, budget, now_ns):
        if budget.name == "enough":
            raise ConfigError("budget enough is in EUR, and costs of it are in USD")
        return judge(store, budget, now_ns)

    monkeypatch.setattr(agents, "budget_status", budget_status)
    agent = BudgetRefusals(home, home / "budgets.yaml", lambda _: None)
    assert [list(agent.turn(NOW_NS)) for _ in range(2)] == [["acme"]] * 2
    assert caplog.text.count("nobody is refused for budget enough") == 1


def test_a_budget_in_another_currency_than_the_costs_is_the_budgets_mistake(home):
    from costtrace.ledger.budgets.file import load_budgets
    from costtrace.ledger.budgets.status import budget_status
    from costtrace.ledger.reader import open_ledger

    (home / "budgets.yaml").write_text(BUDGETS.replace("USD", "EUR"))
    with open_ledger(home) as store, pytest.raises(ConfigError, match="in EUR, and costs of it are in USD"):
        budget_status(store, load_budgets(home / "budgets.yaml")[0], NOW_NS)


@pytest.mark.swallows
def test_what_servers_refused_is_counted_once(home):
    counted = []
    agent = BudgetRefusals(home, home / "budgets.yaml", counted.append)
    status = home / "run" / "frontend-7.json"
    for content in ('{"refused": {"acme": 2}}', '{"refused": {"acme": 2, "globex": 3}}', '{"role": "frontend"}', "{"):
        status.parent.mkdir(exist_ok=True)
        status.write_text(content)
        agent._count_refused()
    assert counted == [2, 3]


# -- the server's side -----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Send a request through the hook; what the client gets, and whether the server saw it."""

    def serve(path="/v1/completions", method="POST", tenant="acme", *, more=None, **variables):
        for name, value in {"COSTTRACE_HOME": str(tmp_path), "COSTTRACE_ADMISSION": "true", **variables}.items():
            monkeypatch.setenv(name, value)
        process.forget()
        sent, seen = [], []

        async def original(self, scope, receive, send):
            seen.append(scope["path"])

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"x-costtrace-tenant", tenant.encode())],
            "client": ("127.0.0.1", 5),
            **(more or {}),
        }
        asyncio.run(frontend.wrap_http(original)(None, scope, None, send))
        return sent, seen

    yield serve
    process.forget()


def test_a_refused_request_gets_429_in_openais_form_and_the_server_never_sees_it(server, tmp_path):
    admission.write(tmp_path, {"acme": Refusal("acme-november", int(time.time()) + 3_600)}, time.time())
    (start, body), seen = server()
    assert seen == []
    assert start["status"] == 429
    headers = dict(start["headers"])
    assert 3_590 <= int(headers[b"retry-after"]) <= 3_600
    assert int(headers[b"content-length"]) == len(body["body"])
    error = json.loads(body["body"])["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", 429)
    assert "acme-november" in error["message"]


def test_a_rolling_budget_has_no_time_to_try_again(server, tmp_path):
    admission.write(tmp_path, {"acme": Refusal("last-30-days", 0)}, time.time())
    (start, _), _ = server()
    assert b"retry-after" not in dict(start["headers"])


WORK = ["/v1/chat/completions", "/v1/chat/completions/batch", "/cohere/v2/chat", "/invocations", "/v2/embed/", "/score"]


@pytest.mark.parametrize("path", WORK)
def test_every_route_that_makes_an_engine_work_is_refused(server, tmp_path, path):
    admission.write(tmp_path, {"acme": WHY}, time.time())
    (start, _), seen = server(path)
    assert (start["status"], seen) == (429, [])


@pytest.mark.parametrize(
    ("extensions", "types"),
    [
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
        (None, ["websocket.close"]),
    ],
    ids=["429", "closed"],
)
def test_a_websocket_is_refused_before_it_is_accepted(server, tmp_path, extensions, types):
    admission.write(tmp_path, {"acme": WHY}, time.time())
    more = {"type": "websocket", "extensions": extensions}
    sent, seen = server("/v1/realtime", None, more=more)
    assert ([message["type"] for message in sent], seen) == (types, [])
    assert sent[0].get("status", 429) == 429
    assert server("/v1/realtime", None, "globex", more=more) == ([], ["/v1/realtime"])


@pytest.mark.parametrize(
    "asked",
    [
        {"tenant": "globex"},
        {"path": "/health", "method": "GET"},
        {"path": "/v1/models", "method": "GET"},
        {"path": "/tokenize"},
        {"path": "/v1/chat/completions/render"},
        {"path": "/sleep"},
        {"path": "/v1/responses/resp_1/cancel"},
        {"COSTTRACE_ADMISSION": "false"},
    ],
    ids=str,
)
def test_what_is_not_refused_reaches_the_server(server, tmp_path, asked):
    admission.write(tmp_path, {"acme": WHY}, time.time())
    sent, seen = server(**asked)
    assert (sent, seen) == ([], [asked.get("path", "/v1/completions")])


def test_a_tenant_that_an_adapter_may_name_is_not_refused_before_it_is_known(server, tmp_path):
    admission.write(tmp_path, {"default": WHY}, time.time())
    assert server(tenant="")[1] == []
    assert server(tenant="", COSTTRACE_TENANT_MODELS="lora=acme")[1] == ["/v1/completions"]
