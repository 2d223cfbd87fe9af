"""``costtrace ui``: the ledger in a browser."""

import contextlib
import shlex
import stat
from pathlib import Path

import click

from costtrace.cli.options import examples, home_option, out, zone
from costtrace.config.load import load
from costtrace.core.errors import CosttraceError
from costtrace.ledger.reader import open_ledger
from costtrace.pricing.carbon_file import stated_intensity
from costtrace_ui.web.responses import Responder
from costtrace_ui.web.server import AccessPolicy, Server, load_style


@click.command(
    short_help="The ledger live in a browser, read-only.",
    epilog=examples(
        "costtrace ui",
        "costtrace ui --port 0                          any free port; it is printed",
        "COSTTRACE_UI_TOKEN_FILE=~/.costtrace-token costtrace ui --bind 10.0.0.5",
    ),
)
@click.option(
    "--bind", default="127.0.0.1", show_default=True, help="IP address to listen on; beyond loopback only with a token."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=9470, show_default=True, help="0: any that is free.")
@click.option(
    "--allow-host", "names", multiple=True, metavar="NAME", help="A host name to answer to, beside localhost."
)
@click.option("--tz", default="UTC", show_default=True, help="Time zone of times.")
@home_option
def ui(*, bind: str, port: int, names: tuple[str, ...], tz: str, home: Path) -> None:
    """Serve the ledger as pages: overview, tenants, requests with their reasons, devices, and the trial balance.

    On this machine only, unless --bind names another address and there is a token (setting `ui_token_file`), which
    browsers ask for as a password. It speaks plain HTTP: for other machines put it behind a proxy with TLS, or use
    `ssh -L`. Nothing is loaded from other hosts, and nothing can be changed. /v1/requests/ID returns a request's final
    figures as JSON.
    """
    path = load().ui_token_file
    policy = AccessPolicy(bind, "" if path is None else token(path), names)
    policy.check()
    with open_ledger(home):  # a home without a ledger is an error at once
        pass
    try:
        server = Server(policy, port, Responder(home, load_style(), zone(tz), stated_intensity()))
    except OSError as error:
        raise CosttraceError(
            f"cannot listen on {bind}, port {port}: {error.strerror}. --port 0 takes a free one."
        ) from error
    with server:
        host = f"[{bind}]" if ":" in bind else bind
        out(f"http://{host}:{server.server_address[1]}/ (end it with Ctrl-C)\n")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def token(path: Path) -> str:
    """The first line of a file that only its owner can read. Raises: CosttraceError, for any other file."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise CosttraceError(
                    f"{path} can be read by others (mode {mode:04o}): run chmod 600 {shlex.quote(str(path))}"
                )
            first_line = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CosttraceError(f"cannot read the token file {path}: {error}") from error
    if not first_line:
        raise CosttraceError(f"the token file {path} is empty: put 16 characters or more into it")
    return first_line
