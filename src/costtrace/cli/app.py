"""The group of commands, and how errors reach people: one clear line, an exit code, no traceback."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

import click

from costtrace.cli.distributions import pip_line
from costtrace.cli.options import Context, ReaderGoneError, examples
from costtrace.core.errors import CosttraceError
from costtrace.reports.output.render import clean

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class Place(NamedTuple):
    """Where a command is: in this distribution (``module:name``), or in another one that may not be installed."""

    inside: str = ""
    distribution: str = ""


_BOARD, _DYNAMO = Place(distribution="costtrace-board"), Place(distribution="costtrace-dynamo")
_LAB, _UI = Place(distribution="costtrace-lab"), Place(distribution="costtrace-ui")
_STATEMENTS = Place(distribution="costtrace-statements")

GROUPS: Mapping[str, Mapping[str, Place]] = {
    "Usage (who used what, and why)": {
        "report": Place("costtrace.cli.usage.report:report"),
        "requests": Place("costtrace.cli.usage.requests:requests"),
        "explain": Place("costtrace.cli.usage.explain:explain"),
        "verify": Place("costtrace.cli.usage.verify:verify"),
        "energy": Place("costtrace.cli.usage.energy:energy"),
        "carbon": Place("costtrace.cli.usage.carbon:carbon"),
        "model": Place("costtrace.cli.usage.model:model"),
        "dynamo": _DYNAMO,
    },
    "Billing (who pays what)": {
        "prices": Place("costtrace.cli.billing.prices:prices"),
        "tenants": Place("costtrace.cli.billing.tenants:tenants"),
        "statement": _STATEMENTS,
        "policies": _STATEMENTS,
        "budgets": Place("costtrace.cli.billing.budgets:budgets"),
        "focus": _STATEMENTS,
        "close": Place("costtrace.cli.billing.periods:close"),
        "periods": Place("costtrace.cli.billing.periods:periods"),
        "rerate": Place("costtrace.cli.billing.periods:rerate"),
        "fleet": Place(distribution="costtrace-fleet"),
    },
    "Operate (keep it running)": {
        "doctor": Place("costtrace.cli.doctor.command:doctor"),
        "agent": Place("costtrace.cli.operate.agent:agent"),
        "journal": Place("costtrace.cli.operate.journal:journal"),
        "backup": Place("costtrace.cli.operate.upkeep:backup"),
        "compact": Place("costtrace.cli.operate.upkeep:compact"),
    },
    "Live (what happens now)": {"top": _UI, "ui": _UI},
    "Board (cost per million tokens)": {"board": _BOARD, "benchmarks": _BOARD, "bench": _BOARD, "improvement": _BOARD},
    "Lab (try it without a production engine)": {
        "demo": _LAB,
        "replay": _LAB,
        "plan": _LAB,
        "nvml-sim": Place(distribution="costtrace-nvml-sim"),
    },
}
"""Every command of costtrace by its heading in `costtrace --help`, in the order in which a newcomer needs them."""
COMMANDS = {name: place for commands in GROUPS.values() for name, place in commands.items()}
ENTRY_POINTS = "costtrace.commands"
"""Group of entry points by which other distributions add commands: ``name = module:command``."""
OTHERS = "Of other distributions"


class Commands(click.Group):
    """Loads a command when it is asked for, so that `costtrace report` pays for no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands that are installed, in the order in which help shows them."""
        del ctx
        added = _added()
        return [*(n for n, place in COMMANDS.items() if place.inside or n in added), *sorted(added.keys() - COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command; one whose distribution is not installed says how to install it."""
        del ctx
        place = COMMANDS.get(cmd_name, Place())
        if place.inside:
            module, _, name = place.inside.partition(":")
            command = getattr(import_module(module), name)
        elif (entry := _added().get(cmd_name)) is not None:
            try:
                command = entry.load()
            except Exception as error:  # noqa: BLE001 - other distributions' code: it must not break the other commands
                return _refusing(cmd_name, f"cannot be loaded from {entry.value!r}: {error}")
            if not isinstance(command, click.Command):
                return _refusing(cmd_name, f"cannot be loaded from {entry.value!r}: it is no click.Command")
        elif place.distribution:
            return _refusing(cmd_name, f"is not installed. In a checkout of costtrace: {pip_line(place.distribution)}")
        else:
            return None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, and what could be installed."""
        shown = self.list_commands(ctx)
        groups = {title: [name for name in names if name in shown] for title, names in GROUPS.items()}
        groups[OTHERS] = [name for name in shown if name not in COMMANDS]
        width = formatter.width - 6 - max(map(len, shown))
        for title, names in groups.items():
            commands = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
            if commands:
                with formatter.section(title):
                    formatter.write_dl([(name, command.get_short_help_str(width)) for name, command in commands])
        missing: dict[str, list[str]] = {}
        for name, place in COMMANDS.items():
            if name not in shown:
                missing.setdefault(place.distribution, []).append(name)
        if missing:
            with formatter.section("Not installed (the line to install it, in a checkout)"):
                formatter.write_dl([(", ".join(names), pip_line(which)) for which, names in missing.items()])


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _refusing(name: str, why: str) -> click.Command:
    """Replace a command: given anything, even `--help`, it raises an error that says why. `costtrace --help` works."""

    def refuse(words: tuple[str, ...]) -> None:
        del words
        raise CosttraceError(f"the command {name!r} {why}")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    words = click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)
    return click.Command(name, params=[words], callback=refuse, context_settings=anything, help=why)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "costtrace report --since today            what each tenant and model cost",
        "costtrace requests --dearest              the most expensive requests, and why",
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
