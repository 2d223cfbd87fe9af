"""Write the reference documents from the code, or (--check) say which of them are stale.

docs/configuration.md   from costtrace.config.settings
docs/telemetry.md       from costtrace.core.semconv
docs/cli.md             from the commands' own help
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from configuration_page import configuration_markdown
from generated import write_or_compare
from telemetry_page import telemetry_markdown

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 100


def cli_markdown() -> str:
    """Write the help of all commands, one section each."""
    from costtrace.cli.app import cli  # noqa: PLC0415 - the other documents need no command line

    lines = [
        "# Command line",
        "",
        "<!-- Generated from the commands' help by tools/gen_docs.py: do not edit. -->",
        "",
        "`costtrace` and `python -m costtrace` are the same.",
        "",
    ]
    for path, context in _contexts(click.Context(cli, info_name="costtrace", **_look(cli))):
        lines += [f"## {path}", "", "```text", _help(context), "```", ""]
    return "\n".join(lines)


def _contexts(context: click.Context) -> Iterator[tuple[str, click.Context]]:
    """All commands below a group, the group first."""
    yield context.command_path, context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _contexts(click.Context(inner, context, name, **_look(inner)))


def _look(command: click.Command) -> dict[str, Any]:
    """Return what makes the help the same on every terminal."""
    return {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}


def _help(context: click.Context) -> str:
    text = context.command.get_help(context)
    return "\n".join(line.rstrip() for line in text.splitlines())


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration_markdown,
    "telemetry.md": telemetry_markdown,
    "cli.md": cli_markdown,
}


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of the pages (default: %(default)s)")
    arguments = parser.parse_args()
    pages = {arguments.docs / name: make().rstrip("\n") + "\n" for name, make in PAGES.items()}
    return write_or_compare(pages, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
