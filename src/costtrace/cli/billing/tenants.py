"""``costtrace tenants``: API keys of tenants, and where tenants belong in the organisation."""

import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click

from costtrace.capture.tenancy.sources import LEAST_KEY, KeyFile, KnownKey, read_keys, write_keys
from costtrace.cli.options import format_option, open_store, out, period, period_options, store_option, zone
from costtrace.config.load import load
from costtrace.config.tenant_names import tenant_name
from costtrace.core.errors import ConfigError
from costtrace.ledger.queries import claims
from costtrace.reports.output.render import render
from costtrace.reports.output.tables import Column, Row, Table, count, text
from costtrace.reports.usage.organisation_file import Tenant, load_tenants

FINGERPRINT = 12
"""How many characters of a key's salted hash name it."""


@click.group()
def tenants() -> None:
    """API keys of tenants, and where tenants belong in the organisation."""


def _keys_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--keys", type=click.Path(path_type=Path), help="The key file.  [default: the setting `tenant_keys`]"
    )(function)


@tenants.command(name="add-key", short_help="Let an API key name a tenant.")
@click.argument("tenant")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the key from standard input instead of making one.")
@click.option("--label", default="", help="What the key is for, to tell keys apart.")
@_keys_option
def add_key(tenant: str, label: str, keys: Path | None, *, from_stdin: bool) -> None:
    """Let an API key name TENANT: a request with it is billed to TENANT, whatever address it comes from.

    Without --stdin a new key is made and shown only this once; a key that was read is not shown at all. The file gets
    only its salted hash, so the key cannot be read from it. Engines see a change within seconds.
    """
    if not tenant.isascii() or tenant_name(tenant.encode("ascii")) != tenant:
        raise click.UsageError("a tenant's name is printable ASCII, at most 128 characters, and does not begin with __")
    if not label.isprintable() or len(label) > 100:
        raise click.UsageError("--label must be printable and at most 100 characters long")
    key = sys.stdin.readline().strip() if from_stdin else "ct-" + secrets.token_urlsafe(32)
    if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise click.UsageError(f"a key has at least {LEAST_KEY} printable ASCII characters and no space")
    path = _path(keys)
    file = _read(path)
    digest = file.hash(key.encode("ascii"))
    if digest in file.keys and file.keys[digest].tenant != tenant:
        raise click.ClickException("this key is another tenant's already: remove it there first")
    file.keys[digest] = KnownKey(tenant, label, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    _write(path, file)
    out(f"{tenant}: key {digest[:FINGERPRINT]} added to {path}\n")
    if not from_stdin:
        out(f"{key}\n")


@tenants.command(name="remove-key")
@click.argument("fingerprint")
@_keys_option
def remove_key(fingerprint: str, keys: Path | None) -> None:
    """Forget the key with this FINGERPRINT (`costtrace tenants keys` shows it)."""
    path = _path(keys)
    file = _read(path)
    digests = [digest for digest in file.keys if len(fingerprint) >= FINGERPRINT and digest.startswith(fingerprint)]
    if len(digests) != 1:
        raise click.ClickException(f"there is no key {fingerprint!r} in {path}")
    del file.keys[digests[0]]
    _write(path, file)
    out(f"key {fingerprint} removed from {path}\n")


@tenants.command(name="keys")
@format_option
@_keys_option
def keys_(form: str, keys: Path | None) -> None:
    """Show whose keys there are: tenant, label, when it was added, and a fingerprint; never a key."""
    path = _path(keys)
    lines = sorted(_read(path).keys.items())
    columns: tuple[Column[Key], ...] = (
        text("tenant", lambda key: key[1].tenant),
        text("label", lambda key: key[1].label),
        text("added", lambda key: key[1].added),
        text("fingerprint", lambda key: key[0][:FINGERPRINT]),
    )
    out(render([Table("keys", f"Keys in {path}", columns, lines, _exact_key)], form))


Key = tuple[str, KnownKey]
"""A key's salted hash, and whose it is."""


def _exact_key(key: Key) -> Row:
    digest, known = key
    return {"fingerprint": digest[:FINGERPRINT], **known._asdict()}


@tenants.command()
@click.option("--file", type=click.Path(path_type=Path), help="The tenants file.  [default: the setting `tenants`]")
@format_option
def show(file: Path | None, form: str) -> None:
    """Show where tenants belong in the organisation."""
    path = file or load().tenants
    if path is None:
        raise click.UsageError("no tenants file is set. Name one with --file, or with COSTTRACE_TENANTS.")
    lines = list(load_tenants(path).values())
    columns: tuple[Column[Tenant], ...] = (
        text("name", lambda tenant: tenant.name),
        text("organisation", lambda tenant: tenant.organisation),
        text("team", lambda tenant: tenant.team),
        text("project", lambda tenant: tenant.project),
        text("cost_centre", lambda tenant: tenant.cost_centre),
        text("labels", _labels),
    )
    table = Table("tenants", f"Tenants of {path}", columns, lines, _exact_tenant)
    out(render([table], form))


def _labels(tenant: Tenant) -> str:
    return ", ".join(f"{key}={value}" for key, value in tenant.labels.items())


def _exact_tenant(tenant: Tenant) -> Row:
    return {**tenant._asdict(), "labels": _labels(tenant)}


@tenants.command(name="claims")
@period_options
@format_option
@store_option
def claims_(*, since: str | None, until: str | None, tz: str, form: str, home: Path) -> None:
    """Count how tenants were identified: by key, token, header, default; and claims that were rejected."""
    with open_store(home) as store:
        lines = [Claimed(*row) for row in claims(store, period(store, since, until, zone(tz)))]
    columns: tuple[Column[Claimed], ...] = (
        text("source", lambda line: line.source),
        text("tenant", lambda line: line.tenant),
        count("requests", lambda line: line.requests),
    )
    out(render([Table("claims", "How tenants were identified", columns, lines, Claimed._asdict)], form))


class Claimed(NamedTuple):
    """Requests of a tenant whose name came from one source."""

    source: str
    tenant: str
    requests: int


def _path(keys: Path | None) -> Path:
    path = keys or load().tenant_keys
    if path is None:
        raise click.UsageError("no key file is set. Name one with --keys, or with COSTTRACE_TENANT_KEYS.")
    return path


def _read(path: Path) -> KeyFile:
    try:
        return read_keys(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read as a key file ({type(error).__name__}). Move it away.") from error


def _write(path: Path, file: KeyFile) -> None:
    try:
        write_keys(path, file)
    except OSError as error:
        raise ConfigError(f"cannot write the key file {path}: {error}") from error
