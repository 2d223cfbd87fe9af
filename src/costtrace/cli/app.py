"""The group of commands, and how errors reach people: one clear line, an exit code, no traceback."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import click

from costtrace.cli.options import Context, ReaderGoneError, examples
from costtrace.core.errors import CosttraceError
from costtrace.reports.output.render import clean

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

COMMANDS = {
    "report": "costtrace.cli.usage.report:report",
    "requests": "costtrace.cli.usage.requests:requests",
    "statement": "costtrace.cli.billing.statement:statement",
    "policies": "costtrace.cli.billing.policies:policies",
    "focus": "costtrace.cli.billing.focus:focus",
    "explain": "costtrace.cli.usage.explain:explain",
    "model": "costtrace.cli.usage.model:model",
    "energy": "costtrace.cli.usage.energy:energy",
    "carbon": "costtrace.cli.usage.carbon:carbon",
    "verify": "costtrace.cli.usage.verify:verify",
    "fleet": "costtrace.cli.billing.fleet:fleet",
    "dynamo": "costtrace_dynamo.passes.command:dynamo",
    "close": "costtrace.cli.billing.periods:close",
    "periods": "costtrace.cli.billing.periods:periods",
    "rerate": "costtrace.cli.billing.periods:rerate",
    "compact": "costtrace.cli.billing.periods:compact",
    "backup": "costtrace.cli.billing.periods:backup",
    "top": "costtrace.cli.top.command:top",
    "ui": "costtrace.cli.web.command:ui",
    "budgets": "costtrace.cli.billing.budgets:budgets",
    "journal": "costtrace.cli.operate.journal:journal",
    "agent": "costtrace.cli.operate.agent:agent",
    "doctor": "costtrace.cli.doctor.command:doctor",
    "tenants": "costtrace.cli.billing.tenants:tenants",
    "prices": "costtrace.cli.billing.prices:prices",
    "bench": "costtrace_board.commands.bench:bench",
    "benchmarks": "costtrace_board.commands.benchmarks:benchmarks",
    "board": "costtrace_board.commands.board:board",
    "improvement": "costtrace_board.commands.improvement:improvement",
    "plan": "costtrace_lab.plan.command:plan",
    "replay": "costtrace_lab.replay.command:replay",
    "demo": "costtrace_lab.demo.command:demo",
    "nvml-sim": "costtrace_nvml_sim.command:nvml_sim",
}
"""Where each command is. It is loaded when it is asked for; one whose module is not installed is not shown."""


class Commands(click.Group):
    """Loads a command when it is asked for, so that `costtrace report` pays for no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands that are installed."""
        del ctx
        return [name for name, place in COMMANDS.items() if _is_there(place.partition(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "costtrace report --since today            what each tenant and model cost",
        "costtrace requests --dearest              the dearest requests, and why",
        "costtrace explain chatcmpl-8f31c0         one request: why it cost what it did",
        "costtrace verify                          prove that the rows add up",
        "costtrace journal show                    what an engine recorded, line by line",
        "costtrace doctor                          every setting with its source, and what is wrong",
    ),
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="costtrace-core", prog_name="costtrace")
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Say what each request to an LLM server cost: GPU time, energy and money, in rows that add up to the meter.

    Everything lives under COSTTRACE_HOME (--home on each command that reads it).
    """
    ctx.ensure_object(Context).debug = debug


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its escape, not a traceback.
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = cli.main(words, prog_name="costtrace", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGoneError):
        # What is left in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except CosttraceError as error:
        if "--debug" in words:
            raise
        message = "\n".join(map(clean, str(error).splitlines()))
        sys.stderr.write(f"costtrace: {message}\n")
        return EXIT_ERROR
    return code if isinstance(code, int) else 0


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
