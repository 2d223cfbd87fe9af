"""The doctor on real homes: real journals, locks, ledgers and sockets."""

import json
import os
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner
from otlp_receiver import Receiver, listening, self_signed

from costtrace.capture.node_files.agent_lock import AgentLock
from costtrace.cli.doctor import engines, here, hooks, network
from costtrace.cli.doctor import examine as doctor
from costtrace.cli.doctor.command import doctor as command
from costtrace.config.load import KEYS
from costtrace.config.settings import Settings
from costtrace.core.clock import anchor
from costtrace.core.events import EngineStopped, Heartbeat, Snapshot
from costtrace.core.rows import EngineRow
from costtrace.journal.writer import JournalWriter
from costtrace.ledger.store import LEDGER_NAME, Ledger

EXAMPLES = Path(__file__).parents[3] / "examples" / "prices"
PLUGINS = Path(__file__).parents[3] / "plugins"


@pytest.fixture
def home(tmp_path):
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


def open_writer(home):
    return JournalWriter(home, "vllm-1", lambda number: Snapshot(number, 0, 0, (), ()), cap_bytes=1 << 30)


@pytest.fixture
def writer(home):
    made = open_writer(home)
    yield made
    made.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def lines_of(findings, level=None):
    return [
        f"{finding.level} {finding.message} {finding.remedy}" for finding in findings if level in {None, finding.level}
    ]


def only(findings):
    (one,) = lines_of(findings)
    return one


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def heartbeat(ago_s=0.0):
    now = time.monotonic_ns() - int(ago_s * 1e9)
    return Heartbeat(now, anchor().wall(now))


# -- the home ------------------------------------------------------------------------------------------------------


def test_a_home_that_can_be_used_is_in_order(home):
    assert only(here.home(Settings(home=home))).startswith("ok")


def test_a_home_that_is_not_there_yet_is_only_a_warning(tmp_path):
    (line,) = lines_of(here.home(Settings(home=tmp_path / "a" / "b")))
    assert line.startswith("warn")
    assert "does not exist yet" in line


def test_a_home_that_is_a_file_fails(tmp_path):
    (tmp_path / "file").write_text("")
    assert only(here.home(Settings(home=tmp_path / "file" / "home"))).startswith("fail")


def test_a_home_that_others_can_read_is_a_warning_with_the_command_that_helps(home):
    home.chmod(0o755)
    (line,) = lines_of(here.home(Settings(home=home)), "warn")
    assert f"chmod 700 {home}" in line


# -- the agent -----------------------------------------------------------------------------------------------------


def test_no_agent_is_in_order_where_the_plugin_starts_one_and_a_warning_where_it_does_not(home):
    assert only(here.agent(Settings(home=home))).startswith("ok")
    assert only(here.agent(Settings(home=home, agent="external"))).startswith("warn")


def test_a_running_agent_is_seen_with_its_problems(home):
    lock = AgentLock(home)
    lock.write_status(version="0.0.1", wall_ns=time.time_ns(), problems=["cannot write the ledger"])
    try:
        ok, version, problem = lines_of(here.agent(Settings(home=home)))
    finally:
        lock.release()
    assert ok.startswith("ok runs")
    assert str(os.getpid()) in ok
    assert version.startswith("warn its version is 0.0.1")
    assert problem.startswith("fail cannot write the ledger")


def test_an_agent_that_has_gone_silent_is_a_warning(home):
    lock = AgentLock(home)
    lock.write_status(wall_ns=time.time_ns() - 600 * 10**9)
    try:
        assert "may be stuck" in only(here.agent(Settings(home=home)))
    finally:
        lock.release()


# -- engines -------------------------------------------------------------------------------------------------------


def test_an_engine_that_writes_without_an_agent_is_a_failure(home, writer):
    writer.append([heartbeat()])
    engine, nobody_reads = lines_of(engines.journals(home))
    assert engine.startswith("ok vllm-1 writes")
    assert nobody_reads.startswith("fail 1 engines write, and no agent reads")


def test_an_engine_that_has_gone_silent_is_a_warning(home, writer):
    writer.append([heartbeat(ago_s=60)])
    lock = AgentLock(home)
    try:
        line = only(engines.journals(home))
    finally:
        lock.release()
    assert line.startswith("warn vllm-1 holds its journal, last written 60 s ago")


def test_an_engine_that_has_ended_is_in_order_and_its_reason_is_said(home):
    writer = open_writer(home)
    writer.append([heartbeat(), EngineStopped(time.monotonic_ns(), "shutdown")])
    writer.close()
    assert only(engines.journals(home)) == "ok vllm-1 has ended (shutdown) "


def test_a_clock_that_was_set_back_an_hour_is_seen(home, writer, monkeypatch):
    real = anchor()
    monkeypatch.setattr("costtrace.core.clock.anchor", lambda: real._replace(wall_ns=real.wall_ns + 3600 * 10**9))
    writer.append([heartbeat()])
    monkeypatch.undo()
    assert any("-3600 s" in line for line in lines_of(engines.journals(home), "warn"))


def test_a_home_without_engines_says_what_to_do(home):
    assert "costtrace-vllm" in only(engines.journals(home))


def test_a_damaged_journal_does_not_keep_the_doctor_from_the_others(home, writer):
    writer.append([heartbeat()])
    (home / "journal" / "vllm-0").mkdir()
    (home / "journal" / "vllm-0" / "00000001.ctj").write_bytes(os.urandom(5000))
    lines = lines_of(engines.journals(home))
    assert any("vllm-1 writes" in line for line in lines)
    assert any("vllm-0 has ended" in line for line in lines)


def status_file(home, name="api", pid=None, **more):
    (home / "run").mkdir(exist_ok=True)
    written = {"role": name, "pid": pid or os.getpid(), "hooks": ["http"], "vllm_version": "0.32.0", **more}
    (home / "run" / f"{name}.json").write_text(json.dumps(written))


def test_lost_hooks_and_swallowed_errors_of_a_process_are_shown(home):
    status_file(home, lost_hooks={"http": "gone; lost: tenants"}, swallowed_errors={"journal.pump": 3})
    ok, hook, errors = lines_of(engines.processes(home))
    assert ok.startswith("ok api")
    assert "hook http does not fit: gone; lost: tenants" in hook
    assert "3 errors at journal.pump" in errors


def test_a_process_that_is_gone_is_no_warning(home):
    ended = subprocess.Popen(["true"])
    ended.wait()
    status_file(home, pid=ended.pid, lost_hooks={"http": "gone"})
    assert "is gone" in only(engines.processes(home))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"role": 1}', '{"role": "x", "pid": 1, "lost_hooks": 7}', "\0"])
def test_a_status_file_that_cannot_be_read_is_a_warning(home, content):
    (home / "run").mkdir()
    (home / "run" / "x.json").write_text(content)
    assert "delete it" in only(engines.processes(home))


# -- prices and ledger ---------------------------------------------------------------------------------------------


def ledger_with(home, device_name="NVIDIA H100 80GB HBM3", kind="gpu"):
    ledger = Ledger(home / LEDGER_NAME)
    ledger.put_engine(
        EngineRow(
            engine_id="vllm-1",
            host="h",
            engine="vllm",
            version="1",
            model="m",
            role="aggregated",
            dp_rank=0,
            devices=("GPU-1",),
            device_name=device_name,
            device_kind=kind,
            started_wall_ns=0,
            started_ns=0,
        )
    )
    return ledger


def test_the_price_of_each_device_that_was_seen_is_shown(home):
    ledger_with(home).close()
    label, price = lines_of(engines.prices(Settings(home=home, prices=EXAMPLES / "sample-2026-11.yaml")))
    assert label.startswith("warn")
    assert "`sample`" in label
    assert price.startswith("ok gpu 'NVIDIA H100 80GB HBM3': 1.69 USD per hour")


def test_a_device_without_a_price_is_named(home):
    ledger_with(home, "NVIDIA T4").close()
    lines = lines_of(engines.prices(Settings(home=home, prices=EXAMPLES / "sample-2026-11.yaml")), "warn")
    assert "'NVIDIA T4'" in lines[1]


def test_no_price_book_is_a_warning_and_a_broken_one_a_failure(home, tmp_path):
    assert only(engines.prices(Settings(home=home))).startswith("warn no price book")
    assert only(engines.prices(Settings(home=home, prices=tmp_path / "none.yaml"))).startswith("fail cannot read")
    wrong = Settings(home=home, prices=EXAMPLES / "sample-2026-11.yaml", currency="EUR")
    assert "expects EUR" in only(engines.prices(wrong))


def test_what_the_ledger_notes_is_shown_once_with_its_count(home):
    ledger = ledger_with(home)
    for _ in range(3):
        ledger.notice("price", "no price for x")
    ledger.close()
    rows, note = lines_of(engines.ledger(home))
    assert "0 requests" in rows
    assert "(3 times): price: no price for x" in note


def test_a_ledger_of_a_newer_version_is_a_failure_with_its_own_message(home):
    ledger = ledger_with(home)
    ledger.connection.execute("PRAGMA user_version = 99")
    ledger.close()
    failures = lines_of(doctor.examine(Settings(home=home, prometheus_port=0), {}), "fail")
    assert any("schema 99" in line for line in failures)


def test_a_ledger_that_is_none_is_a_failure_and_no_traceback(home):
    (home / LEDGER_NAME).write_bytes(b"not a ledger" * 100)
    failures = lines_of(doctor.examine(Settings(home=home, prometheus_port=0), {}), "fail")
    assert any("ledger" in line for line in failures)


# -- network -------------------------------------------------------------------------------------------------------


def test_a_collector_that_listens_is_in_order_and_nothing_is_sent_to_it():
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = []

        def take():
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    got.append(connection.recv(100))

        thread = threading.Thread(target=take)
        thread.start()
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}"}
        lines = lines_of(network.collector(env))
        thread.join()
    assert [line.split()[0] for line in lines] == ["ok", "ok"]
    assert got == [b"", b""]


@pytest.mark.parametrize("env", [{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"scheme": "https://"}])
def test_a_collector_that_does_not_speak_the_tls_that_is_meant_is_a_failure(monkeypatch, listener, env):
    monkeypatch.setattr(network, "TLS_TIMEOUT_S", 0.3)
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{env.get('scheme', '')}127.0.0.1:{listener}", **env}
    failures = lines_of(network.collector(env), "fail")
    assert len(failures) == 2
    assert all("does not speak TLS" in line and f"http://127.0.0.1:{listener}" in line for line in failures)


def test_a_collector_that_answers_tls_with_http_is_a_failure_and_one_that_speaks_tls_is_none(tmp_path):
    with listening(Receiver()) as plain, listening(Receiver(), tls=self_signed(tmp_path)) as secure:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{plain.port}"}
        assert [line.split()[0] for line in lines_of(network.collector(env))] == ["fail", "fail"]
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": secure.url}
        assert [line.split()[0] for line in lines_of(network.collector(env))] == ["ok", "ok"]
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"127.0.0.1:{secure.port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        assert [line.split()[0] for line in lines_of(network.collector(env))] == ["warn", "ok"] * 2


@pytest.mark.parametrize(
    ("env", "level", "says"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "warn", "traces are not sent: OTEL_SDK_DISABLED is true"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "ok", "traces are not sent: OTEL_TRACES_EXPORTER=none"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "unix:///run/x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "warn",
            "INSECURE=true",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"}, "fail", "Write http://c:4318"),
        (
            {"HTTP_PROXY": "http://me:SECRET@127.0.0.1:{nobody}"},
            "warn",
            "that HTTP_PROXY names, 127.0.0.1:{nobody}: nobody",
        ),
        ({"http_proxy": "127.0.0.1:{listener}"}, "warn", "whether it reaches the collector is not seen from here"),
        ({"HTTP_PROXY": "http://127.0.0.1:{nobody}", "NO_PROXY": "127.0.0.1"}, "ok", "somebody listens"),
        ({"https_proxy": "http://127.0.0.1:{nobody}"}, "ok", "somebody listens"),
        ({"HTTP_PROXY": "http://127.0.0.1:{nobody}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "ok", "somebody listens"),
        ({"http_proxy": "http://127.0.0.1:{nobody}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "warn", "nobody answers"),
    ],
)
def test_the_way_to_a_collector_is_looked_at_as_the_exporters_take_it(monkeypatch, listener, env, level, says):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    ports = {"nobody": free_port(), "listener": listener}
    env = {name: value.format(**ports) for name, value in env.items()}
    lines = lines_of(network.collector({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener}", **env}))
    assert lines[0].startswith(level)
    assert says.format(**ports) in lines[0]
    assert "SECRET" not in str(lines)


def test_a_collector_that_is_not_there_is_a_warning():
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    assert all("nobody answers there" in line for line in lines_of(network.collector(env), "warn"))
    assert len(lines_of(network.collector(env), "warn")) == 2


def test_a_collector_that_is_not_set_is_in_order_and_a_protocol_that_is_none_is_not():
    assert lines_of(network.collector({}), "ok") == lines_of(network.collector({}))
    wrong = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}
    assert len(lines_of(network.collector(wrong), "fail")) == 2


def test_a_password_in_the_endpoint_is_not_shown():
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:secret@127.0.0.1:{free_port()}"}
    assert not any("secret" in line for line in lines_of(network.collector(env)))


def serve(page):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.handle_request, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("page", "agent", "says"),
    [
        (b"costtrace_gpu_time_seconds_total 1\n", True, "ok the agent answers"),
        (b"costtrace_gpu_time_seconds_total 1\n", False, "warn an agent of another home answers"),
        (b"# HELP costtrace_cost Cost.\n", False, "warn an agent of another home answers"),
        (b"node_cpu_seconds_total 1\n", True, "fail something that is not costtrace"),
        (b'vllm:x{model_name="costtrace_x"} 1\n', False, "fail something that is not costtrace"),
    ],
)
def test_whose_the_prometheus_port_is(home, page, agent, says):
    server = serve(page)
    lock = AgentLock(home) if agent else None
    try:
        assert only(network.prometheus(Settings(home=home, prometheus_port=server.server_port))).startswith(says)
    finally:
        server.server_close()
        if lock is not None:
            lock.release()


def test_a_port_where_somebody_is_silent_is_taken(home, listener):
    assert only(network.prometheus(Settings(home=home, prometheus_port=listener))).startswith("fail")


def test_a_free_port_is_in_order_without_an_agent_and_a_warning_with_one(home):
    settings = Settings(home=home, prometheus_port=free_port())
    assert "is free" in only(network.prometheus(settings))
    lock = AgentLock(home)
    try:
        assert only(network.prometheus(settings)).startswith("warn an agent runs, but nothing listens")
    finally:
        lock.release()


# -- hooks and the command -----------------------------------------------------------------------------------------


def test_hooks_of_a_plugin_that_is_not_installed_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setitem(hooks.PLUGINS, "tensorrt-llm", "costtrace_of_nobody")
    assert only(hooks.check("tensorrt-llm", tmp_path)).startswith("fail the plugin for tensorrt-llm is not installed")


ENTRIES = [
    EntryPoint(name, f"costtrace_{plugin}.plugin:install", "vllm.general_plugins")
    for name, plugin in (("costtrace", "vllm"), ("costtrace_dynamo", "dynamo"))
]
OTHER = EntryPoint("other", "not_costtrace.plugin:install", "vllm.general_plugins")


@pytest.mark.parametrize("entries", [[*ENTRIES, OTHER], [OTHER, *reversed(ENTRIES)]], ids=["in order", "reversed"])
@pytest.mark.parametrize(
    ("allowed", "missing"),
    [
        ("", "costtrace, costtrace_dynamo"),
        ("other", "costtrace, costtrace_dynamo"),
        ("costtrace", "costtrace_dynamo"),
        ("costtrace_dynamo", "costtrace"),
        ("costtrace, costtrace_dynamo", "costtrace_dynamo"),
        ("costtrace,costtrace_dynamo", ""),
        ("other,costtrace_dynamo,costtrace", ""),
        (None, ""),
    ],
)
def test_each_plugin_that_vllm_plugins_leaves_out_is_a_failure(monkeypatch, entries, allowed, missing):
    monkeypatch.setattr(here.util, "find_spec", lambda name: name)
    monkeypatch.setattr(here.metadata, "entry_points", lambda **_: entries)
    line = only(here.plugin({} if allowed is None else {"VLLM_PLUGINS": allowed}))
    if not missing:
        assert line.startswith("ok vLLM of this environment loads costtrace, costtrace_dynamo")
        return
    assert line.startswith(f"fail VLLM_PLUGINS={allowed!r} leaves out {missing}: engines are not billed")
    other = "other," if allowed == "other" else ""
    assert f"VLLM_PLUGINS={other}" in line.partition("set ")[2]
    assert set(line.partition("set VLLM_PLUGINS=")[2].partition(", without")[0].split(",")) >= {
        "costtrace",
        "costtrace_dynamo",
    }


def test_an_engine_that_runs_without_the_plugin_is_a_failure_with_its_pid(home, monkeypatch):
    monkeypatch.setattr(engines, "unrecorded", lambda _: [(4711, "VLLM_PLUGINS='' leaves out costtrace")])
    line = only(engines.unbilled(home))
    assert line.startswith("fail the vLLM engine with pid 4711 is not billed: VLLM_PLUGINS='' leaves out costtrace")


@pytest.mark.parametrize(
    ("engine", "line"),
    [("vllm", "./plugins/costtrace-vllm"), ("dynamo", "./plugins/costtrace-vllm ./plugins/costtrace-dynamo")],
)
def test_a_plugin_that_is_missing_is_installed_from_a_checkout(tmp_path, monkeypatch, engine, line):
    monkeypatch.setattr(hooks, "import_module", missing)
    assert f"In a checkout of costtrace: pip install {line}" in only(hooks.check(engine, tmp_path))


def missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}")


@pytest.mark.parametrize("engine", ["vllm", "tensorrt-llm"])
def test_an_engine_without_its_plugin_is_a_failure_with_the_line_that_installs_it(monkeypatch, engine):
    package = engine.replace("-", "_")
    monkeypatch.setattr(here.util, "find_spec", lambda name: name == package or None)
    monkeypatch.setattr(here.metadata, "entry_points", lambda **_: ())
    line = only(here.plugin({}) if engine == "vllm" else here.tensorrt_llm({}))
    assert line.startswith("fail this environment has ")
    assert f": pip install ./plugins/costtrace-{engine}" in line


@pytest.mark.parametrize("distribution", [path.name for path in PLUGINS.glob("costtrace-*")])
def test_a_distribution_of_another_version_is_a_warning(monkeypatch, distribution):
    monkeypatch.setattr(here.metadata, "version", lambda name: "0.0.1" if name == distribution else "0.1.0")
    assert f"{distribution} 0.0.1" in lines_of(here.versions(), "ok")[0]
    assert "have different versions: 0.0.1, 0.1.0" in lines_of(here.versions(), "warn")[0]


@pytest.fixture
def run(home, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("COSTTRACE_", "OTEL_"))]:
        monkeypatch.delenv(name)

    def call(*arguments, **env):
        given = {"COSTTRACE_HOME": str(home), "COSTTRACE_PROMETHEUS_PORT": "0", **env}
        return CliRunner().invoke(command, arguments, env=given)

    return call


def test_the_command_shows_every_setting_with_its_source(run, home):
    done = run("--format", "json")
    report = json.loads(done.stdout)
    settings = {row["key"]: row for row in report["settings"]}
    assert set(KEYS) <= set(settings)
    assert settings["home"] == {"key": "home", "value": str(home), "source": "COSTTRACE_HOME"}
    assert done.exit_code == 0
    assert {"subject", "level", "message", "remedy"} == set(report["findings"][0])


def test_the_command_ends_with_1_where_something_fails(run):
    done = run(COSTTRACE_PRICES="/nowhere.yaml")
    assert done.exit_code == 1
    assert "fail  prices" in done.stdout
    assert "1 failures" in done.stdout


def test_settings_that_cannot_be_used_are_findings(run):
    done = run(COSTTRACE_WINDOW_S="7", COSTTRACE_NONSENSE="1")
    assert done.exit_code == 1
    assert done.stdout.count("fail  settings") == 2


def test_every_finding_that_is_not_in_order_has_a_remedy(run):
    report = json.loads(run("--format", "json", COSTTRACE_PRICES="/nowhere.yaml").stdout)
    assert [row for row in report["findings"] if row["level"] != "ok" and not row["remedy"]] == []


def test_the_directory_of_a_package_without_its_engine_is_refused(run, tmp_path):
    assert run("--package-dir", str(tmp_path)).exit_code == 2


def test_an_engine_that_is_not_installed_needs_the_directory_of_its_source(run):
    done = run("--engine", "tensorrt-llm")
    assert done.exit_code == 2
    assert "not installed in this environment" in done.output
