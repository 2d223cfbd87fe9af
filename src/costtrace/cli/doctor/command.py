"""`costtrace doctor`: every setting with its source, and what is wrong with this node."""

import os
from pathlib import Path

import click

from costtrace.cli.doctor import hooks
from costtrace.cli.doctor.examine import examine
from costtrace.cli.doctor.findings import FAIL, OK, WARN, Finding
from costtrace.cli.options import examples
from costtrace.config import load as config
from costtrace.core.errors import ConfigError
from costtrace.reports.output.render import clean, render
from costtrace.reports.output.tables import AnyTable, Column, Table, text


@click.command(
    epilog=examples(
        "costtrace doctor",
        "costtrace doctor --format json",
        "costtrace doctor --engine vllm --package-dir /usr/lib/python3/site-packages/vllm",
        "costtrace doctor --engine tensorrt-llm",
    )
)
@click.option("--home", type=click.Path(path_type=Path), help="Directory of ledger and journals.  [COSTTRACE_HOME]")
@click.option(
    "--engine", type=click.Choice(sorted(hooks.PLUGINS)), help="Also check the hooks of this engine's plugin,"
)
@click.option(
    "--package-dir",
    type=click.Path(path_type=Path),
    help="against the source of the engine's package here. Default: the one of this environment.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(home: Path | None, engine: str | None, package_dir: Path | None, form: str) -> None:
    """Say how costtrace is set up on this node, and what is wrong. Changes nothing, sends no data.

    The exit code is 1 if anything fails.
    """
    if engine is None and package_dir is not None:
        raise click.UsageError("--package-dir goes with --engine: which engine's source it is.")
    if engine is not None and package_dir is None:
        package_dir = hooks.installed(engine)
        if package_dir is None:
            raise click.UsageError(f"{engine} is not installed in this environment: name its source, --package-dir.")
    explained: list[config.Explained] = []
    try:
        flags = {"home": home}
        explained = config.explain(flags)
        findings = examine(config.load(flags), os.environ)
    except ConfigError as error:
        findings = [
            Finding("settings", FAIL, line, "Correct it; all else is checked after that.")
            for line in str(error).split("\n")
        ]
    if engine is not None and package_dir is not None:
        findings += hooks.check(engine, package_dir)
    tables: list[AnyTable] = [Table("settings", "settings", _SETTINGS, explained, config.Explained._asdict)]
    fits = hooks.fits(engine, package_dir) if engine and package_dir else []
    hook_table = Table("hooks", "hooks", _HOOKS, fits, hooks.HookFit._asdict)
    if form == "json":
        tables.append(Table("findings", "findings", (), findings, Finding._asdict))
        click.echo(render([*tables, *([hook_table] if engine else [])], "json"), nl=False)
    else:
        click.echo(render([*tables, *([hook_table] if fits else [])], "table"))
        click.echo("\n".join(_shown(finding) for finding in findings))
        click.echo(_summary(findings))
    if any(finding.level == FAIL for finding in findings):
        click.get_current_context().exit(1)


_SETTINGS: tuple[Column[config.Explained], ...] = (
    text("setting", lambda setting: setting.key),
    text("value", lambda setting: setting.value),
    text("from", lambda setting: setting.source),
)
_HOOKS: tuple[Column[hooks.HookFit], ...] = (
    text("hook", lambda fit: fit.hook),
    text("where", lambda fit: fit.where),
    text("fits", lambda fit: fit.fits),
    text("why", lambda fit: fit.why),
)


def _shown(finding: Finding) -> str:
    line = f"{finding.level:<5} {finding.subject:<11} {clean(finding.message)}"
    return f"{line}\n{'':18}-> {clean(finding.remedy)}" if finding.remedy else line


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(finding.level == level for finding in findings) for level in (OK, WARN, FAIL)}
    return f"\n{counts[FAIL]} failures, {counts[WARN]} warnings, {counts[OK]} in order"
