"""``costtrace agent``: the process that turns journals into the ledger."""

import os
from pathlib import Path

import click

from costtrace.cli.options import examples
from costtrace.config import load as config


@click.command(
    short_help="Turn the journals into the ledger.",
    epilog=examples(
        "costtrace agent",
        "COSTTRACE_HOME=/var/lib/costtrace COSTTRACE_PRICES=prices.yaml costtrace agent",
        "costtrace agent --once                    book what is there and end",
    ),
)
@click.option("--home", type=click.Path(path_type=Path), help="Directory of ledger and journals.  [COSTTRACE_HOME]")
@click.option("--prices", type=click.Path(path_type=Path), help="The price book.  [COSTTRACE_PRICES]")
@click.option("--once", is_flag=True, help="Book what the journals hold now, send it, and end.")
@click.option("--spawned", is_flag=True, hidden=True, help="Started by an engine: end when nobody needs it any more.")
def agent(home: Path | None, prices: Path | None, *, once: bool, spawned: bool) -> None:
    """Run this node's agent: read the journals, sample the devices, write the ledger, emit spans and metrics.

    One agent runs per COSTTRACE_HOME. The plugin starts one by itself unless COSTTRACE_AGENT=external; run this where a
    sidecar or a service should do it. It ends on SIGTERM, with everything written. If it is killed, the next one
    continues where it stopped.

    OTLP goes where OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT, ...).
    """
    if spawned:
        _leave_the_engine()
    from costtrace.agent.main import run  # noqa: PLC0415 - heavy, and only the agent needs it

    flags = {"home": home, "prices": prices}
    run(config.load({key: value for key, value in flags.items() if value is not None}), spawned=spawned, once=once)


def _leave_the_engine() -> None:
    """Fork, to be no child of the engine: an engine ends its children before their last rows are booked."""
    if os.fork():
        os._exit(0)
