"""``costtrace demo``: everything on this machine, from a real vLLM server to a bill that adds up."""

import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import click

from costtrace.capture.node_files.agent_lock import running, status
from costtrace.cli.app import run as run_cli
from costtrace.cli.options import examples
from costtrace.core.errors import ServerError
from costtrace.core.units import NS_PER_S, show_joules
from costtrace.ledger.store import LEDGER_NAME
from costtrace.telemetry.otel_environment import Target
from costtrace_lab.demo.destination import destination, passed_on, sink_variables, spans_line
from costtrace_lab.demo.processes import end_on_sigterm_as_on_ctrl_c
from costtrace_lab.demo.server import VllmServer, free_port, read_environment
from costtrace_lab.demo.simulated_gpu import SimulatedGpu
from costtrace_lab.demo.sink import SpanSink
from costtrace_lab.demo.traffic import WORKLOAD_HEADER, Sent, plan, send_all

BOOKED_BOUND_S = 60.0
WINDOW_S = 5
GAP_S = 2.0


class Stages:
    """Prints one line for each stage of the demo; on a terminal the line is updated while the stage lasts."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._live = sys.stdout.isatty()

    @contextmanager
    def stage(self, title: str) -> Iterator["Stages"]:
        """Print a stage's title at its start, and its duration at its end."""
        self._number += 1
        self._head = f"[{self._number}/{self._total}] {title}"
        began = time.monotonic()
        self.note("...")
        yield self
        self._print(f"{self._head}: done in {time.monotonic() - began:.1f} s", end="\n")

    def note(self, text: str) -> None:
        """Show progress on the stage's line; without a terminal only ``...`` is printed."""
        if self._live:
            self._print(f"{self._head}: {text}", end="")
        elif text == "...":
            self._print(f"{self._head} ...", end="\n")

    def _print(self, text: str, *, end: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write(f"\r\x1b[K{text[:width]}{end}" if self._live else f"{text}{end}")
        sys.stdout.flush()


@click.command(
    epilog=examples(
        "costtrace demo --vllm-env build/vllm-0.32.0 --model build/tiny-model",
        "make demo                  the same, with all of the set-up",
        "make demo KEEP=1           keep the server and the agent up afterwards",
        "make demo SIMULATE_GPU=H100   with the joules of a simulated GPU, labelled as such",
    )
)
@click.option(
    "--vllm-env", type=click.Path(path_type=Path), required=True, help="What tools/setup_vllm.py made (env.json)."
)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Directory of the model to serve.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/demo"), show_default=True)
@click.option("--prices", type=click.Path(path_type=Path), help="A price book.  [default: the demo's own, invented]")
@click.option("--rounds", default=2, show_default=True, help="How often to send the traffic of the three tenants.")
@click.option(
    "--simulate-gpu",
    metavar="PRESET",
    help="On a host without a GPU: read the energy of a simulated one (H100, B200, ...), labelled SIMULATED.",
)
@click.option("--keep", is_flag=True, help="Keep the server and the agent up, and say what to open and try.")
def demo(
    *, vllm_env: Path, model: Path, out: Path, prices: Path | None, rounds: int, simulate_gpu: str | None, keep: bool
) -> int:
    """Start a real vLLM with costtrace installed, send real traffic from three tenants, and show the bill.

    Without a GPU the CPU stands in for it: its time is real and measured, its price is invented, and its energy is
    unknown unless RAPL can be read, or simulated with --simulate-gpu. Everything is left in --out.
    """
    end_on_sigterm_as_on_ctrl_c()
    out = out.resolve()
    home = out / "home"
    if running(home):
        raise ServerError(
            f"an agent (pid {status(home).get('pid')}) still runs on {home}, from a demo that was kept. End that demo "
            "first (Ctrl-C where it runs), or give another --out."
        )
    shutil.rmtree(out, ignore_errors=True)
    home.mkdir(mode=0o700, parents=True)
    kind = read_environment(vllm_env)["kind"]
    if prices is None:
        prices = out / "prices.yaml"
        prices.write_text(_invented_prices(simulate_gpu), encoding="utf-8")
    if simulate_gpu and kind != "cpu":
        raise ServerError("this host has a GPU: its own energy is read. Leave --simulate-gpu out.")
    _print_device_note(kind, simulate_gpu)
    with ExitStack() as stack:
        gpu = stack.enter_context(SimulatedGpu(simulate_gpu, out / "nvml-sim")) if simulate_gpu else None
        sink = stack.enter_context(SpanSink(out / "spans.jsonl"))
        environment = _environment(prices, sink, gpu)
        where = destination(environment)
        stages = Stages(4 if keep else 5)
        server = VllmServer(vllm_env, model, home, env=environment, log=out / "vllm.log")
        with stages.stage("starting vLLM, costtrace in it (30 s on a quiet machine)") as stage:
            server.on_progress = lambda seconds, line: stage.note(f"{seconds:.0f} s  {line}")
            if gpu is not None:
                gpu.watch(lambda: _engine_processes(server))
            server.start()
        try:
            sent = _traffic(stages, server, rounds)
            with stages.stage("waiting until every request is in the ledger"):
                _wait_booked(home, sent)
            if keep:
                _show(out, home, prices, sent, (where, sink))
                return _keep(server, home, environment)
        finally:
            with stages.stage("stopping vLLM"):
                server.stop()
        with stages.stage("closing the books"):
            _wait_closed(home)
        code = _show(out, home, prices, sent, (where, sink))
        if gpu is not None:
            _show_truth(home, gpu)
        return code


def _invented_prices(simulated: str | None) -> str:
    """The demo's price book: prices for the CPU stand-in and for a simulated GPU, never for a real GPU."""
    book = (resources.files("costtrace_lab.demo") / "prices.yaml").read_text(encoding="utf-8")
    if simulated:
        entry = "kind: gpu, per_gpu_hour: 2.00, includes_energy: true, from: 2020-01-01, source: invented"
        book += f'  - {{match: "*", {entry}}}\n'
    return book


def _engine_processes(server: VllmServer) -> list[int]:
    """The processes of a server except its front end; none before it has been started."""
    return [process.pid for process in server.members if process.pid != server.pid] if server.started else []


def _print_device_note(kind: str, simulated: str | None) -> None:
    if simulated:
        click.echo(
            f"No GPU here: the CPU is the device, and is called a {simulated}. Its time is real and measured;\n"
            f"its price is invented for the demo; its energy is that of a SIMULATED {simulated}.\n"
        )
    elif kind == "cpu":
        click.echo(
            "No GPU here: the CPU is the device, as a labelled stand-in. Its time is real and measured; its price is\n"
            "invented for the demo; its energy is unknown unless RAPL is readable.\n"
        )


def _environment(prices: Path, sink: SpanSink, gpu: SimulatedGpu | None) -> dict[str, str | None]:
    environment: dict[str, str | None] = {
        "COSTTRACE_PRICES": str(prices.resolve()),
        "COSTTRACE_WINDOW_S": str(WINDOW_S),
        "COSTTRACE_PROMETHEUS_PORT": str(free_port()),
        "COSTTRACE_AGENT_IDLE_EXIT_S": "2",
        "COSTTRACE_REQUEST_LABELS": f"workload={WORKLOAD_HEADER}",
    }
    environment |= sink_variables(sink.endpoint)
    if gpu is not None:
        environment |= {**gpu.variables, "COSTTRACE_SIMULATED_DEVICE": gpu.setting, "COSTTRACE_SENSOR": "nvml"}
    return environment


def _traffic(stages: Stages, server: VllmServer, rounds: int) -> list[Sent]:
    requests = plan(server.model_name, rounds=rounds)
    with stages.stage(f"sending {len(requests)} requests of three tenants") as stage:
        sent = send_all(
            server.url,
            requests,
            on_progress=lambda done, total, request: stage.note(f"{done}/{total}  {request.label}"),
        )
        time.sleep(GAP_S)
    failed = [
        request for request in sent if request.error is not None or (request.status != 200 and not request.aborted)
    ]
    if failed:
        raise ServerError(f"{len(failed)} requests failed, the first with: {failed[0].error or failed[0].status}")
    return sent


def _wait_booked(home: Path, sent: list[Sent]) -> None:
    wanted = {request.response_id for request in sent if request.response_id}
    deadline = time.monotonic() + BOOKED_BOUND_S
    missing = wanted
    while time.monotonic() < deadline:
        missing = wanted - _booked(home)
        if not missing:
            return
        time.sleep(0.25)
    raise ServerError(
        f"{len(missing)} of {len(wanted)} requests are not in the ledger after {BOOKED_BOUND_S:.0f} s "
        f"({next(iter(missing))}, ...). {home / 'agent.log'} may say why."
    )


def _booked(home: Path) -> set[str]:
    return {row[0] for row in _query(home, "SELECT request_id FROM usage")}


def _query(home: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of the ledger; none before there is a ledger."""
    path = home / LEDGER_NAME
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:  # the agent is creating it
        return []


def _wait_closed(home: Path) -> None:
    """Wait until the agent has booked the rest and ended. Raises: ServerError."""
    deadline = time.monotonic() + BOOKED_BOUND_S
    while running(home):
        if time.monotonic() > deadline:
            raise ServerError(f"the agent has not ended within {BOOKED_BOUND_S:.0f} s; see {home / 'agent.log'}")
        time.sleep(0.2)
    if _query(home, "SELECT count(*) FROM position WHERE done = 0") != [(0,)]:
        raise ServerError(f"the agent has ended before everything was booked; see {home / 'agent.log'}")


def _show(out: Path, home: Path, prices: Path, sent: list[Sent], spans: tuple[Target | None, SpanSink]) -> int:
    """Print the bill and where its parts are; returns the exit code of ``costtrace verify``."""
    for title, arguments in (
        ("THE BILL", ["report", "--by", "tenant,model"]),
        ("THE MOST EXPENSIVE REQUESTS, AND WHY", ["requests", "--dearest", "--limit", "5"]),
        ("THE TRIAL BALANCE", ["verify"]),
    ):
        click.echo(f"\n=== {title} ===\n")
        code = run_cli([*arguments, "--home", str(home)])
    where, sink = spans
    counted = (0, 0) if where is None else passed_on(where, lambda sql: _query(home, sql))
    answered = sum(1 for request in sent if request.status == 200)
    click.echo("\n=== WHERE IT IS ===\n")
    for name, description in (
        (
            "requests",
            f"{answered} were answered by the server, {sum(request.aborted for request in sent)} of them broken off",
        ),
        ("ledger", str(home / LEDGER_NAME)),
        ("journal", f"{home / 'journal'}   (costtrace journal show --home {home})"),
        ("spans", spans_line(where, (sink.endpoint, str(sink.path), sink.spans), counted)),
        ("prices", f"{prices}   (the demo's own are invented)"),
        ("logs", f"{out / 'vllm.log'}, {home / 'agent.log'}"),
    ):
        click.echo(f"  {name:9} {description}")
    return code


def _show_truth(home: Path, gpu: SimulatedGpu) -> None:
    """Print the energy in the rows beside the energy that the simulated board really drew."""
    [(booked_uj, energy_unknown_ns)] = _query(home, "SELECT sum(energy_uj), sum(gap_ns) FROM posting")
    [(start_ns, end_ns)] = _query(home, "SELECT min(started_ns), max(ended_ns) FROM engine")
    drawn_uj = gpu.drawn_uj(start_ns + energy_unknown_ns, end_ns)  # before its first reading the energy is unknown
    booked, drawn = show_joules(booked_uj, simulated=True), show_joules(drawn_uj, simulated=True)
    click.echo(
        "\n=== THE SIMULATED METER ===\n\n"
        f"  the rows have {booked}; the simulated GPU drew {drawn}\n"
        f"  in the {(end_ns - start_ns - energy_unknown_ns) / NS_PER_S:.1f} s that were metered. "
        "Its counter moves every 100 ms and is seen late, as a real one is.\n"
        f"  The {energy_unknown_ns / NS_PER_S:.1f} s before the first reading have no energy: unknown, not 0."
    )


def _keep(server: VllmServer, home: Path, environment: dict[str, str | None]) -> int:
    port = environment["COSTTRACE_PROMETHEUS_PORT"]
    click.echo(f"""
=== STILL UP, UNTIL CTRL-C ===

  curl {server.url}/v1/completions -H 'x-costtrace-tenant: you' -H 'content-type: application/json' \\
    -d '{{"model": "{server.model_name}", "prompt": "Hello", "max_tokens": 20}}'
  costtrace report --home {home}
  costtrace requests --home {home}
  costtrace journal show --home {home}
  curl http://127.0.0.1:{port}/metrics
""")
    try:
        while server.healthy():
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    raise ServerError(f"vLLM has ended; see {server.log_path}")
