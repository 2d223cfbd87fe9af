"""`costtrace doctor`: every setting with its source, and what is wrong with this node."""

import os
from pathlib import Path

import click

from costtrace import config
from costtrace.cli.common import examples
from costtrace.doctor import examine, hooks
from costtrace.doctor.findings import FAIL, OK, WARN, Finding
from costtrace.errors import ConfigError
from costtrace.reports.render import clean, render
from costtrace.reports.tables import Table, text


@click.command(
    epilog=examples(
        "costtrace doctor",
        "costtrace doctor --format json",
        "costtrace doctor --engine vllm --package-dir /usr/lib/python3/site-packages/vllm",
    )
)
@click.option("--home", type=click.Path(path_type=Path), help="Directory of ledger and journals.  [COSTTRACE_HOME]")
@click.option(
    "--engine", type=click.Choice(sorted(hooks.PLUGINS)), help="Also check the hooks of this engine's plugin,"
)
@click.option("--package-dir", type=click.Path(path_type=Path), help="against the source of the engine's package here.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(home: Path | None, engine: str | None, package_dir: Path | None, form: str) -> None:
    """Say how costtrace is set up on this node, and what is wrong. Changes nothing, sends nothing.

    The exit code is 1 if anything fails.
    """
    if (engine is None) != (package_dir is None):
        raise click.UsageError("--engine and --package-dir go together: which engine, and where its source is.")
    rows: list[config.Explained] = []
    try:
        flags = {"home": home}
        rows = config.explain(flags)
        findings = examine(config.load(flags), os.environ)
    except ConfigError as error:
        findings = [
            Finding("settings", FAIL, line, "Correct it; all else is checked after that.")
            for line in str(error).split("\n")
        ]
    if engine is not None and package_dir is not None:
        findings += hooks.check(engine, package_dir)
    settings = Table("settings", "settings", _SETTINGS, [row._asdict() for row in rows])
    if form == "json":
        found = Table("findings", "findings", (), [finding._asdict() for finding in findings])
        click.echo(render([settings, found], "json"), nl=False)
    else:
        click.echo(render([settings], "table"))
        click.echo("\n".join(_told(finding) for finding in findings))
        click.echo(_summary(findings))
    if any(finding.level == FAIL for finding in findings):
        click.get_current_context().exit(1)


_SETTINGS = (text("setting", "key"), text("value", "value"), text("from", "source"))


def _told(finding: Finding) -> str:
    line = f"{finding.level:<5} {finding.subject:<11} {clean(finding.message)}"
    return f"{line}\n{'':18}-> {clean(finding.remedy)}" if finding.remedy else line


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level == level for finding in findings) for level in (OK, WARN, FAIL)}
    return f"\n{counts[FAIL]} failures, {counts[WARN]} warnings, {counts[OK]} in order"
