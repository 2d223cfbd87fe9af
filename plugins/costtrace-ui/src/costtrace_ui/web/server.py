"""The socket of `costtrace ui`: GET and HEAD, from whom and under which name it may be asked."""

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import BoundedSemaphore
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace_ui.web.answers import Answer, Answers
from costtrace_ui.web.frame import Style

AT_ONCE = 8
"""So many requests are answered at a time; others are told to come again."""
TIMEOUT_S = 10
SHORTEST_TOKEN = 16
PLAIN = "text/plain; charset=utf-8"


class Door(NamedTuple):
    """Who may come in."""

    address: str
    """What the server listens on: an IP address."""
    token: str
    """'' : nobody is asked for one."""
    names: Collection[str] = ()
    """Names that it may be asked under, beside localhost and its address."""

    def check(self) -> None:
        """Refuse what would be open to others. Raises: CosttraceError."""
        try:
            ip = ipaddress.ip_address(self.address)
        except ValueError:
            raise CosttraceError(f"--bind {self.address}: use an IP address, as in --bind 127.0.0.1") from None
        if not ip.is_loopback and not self.token:
            raise CosttraceError(
                f"--bind {self.address} can be reached from other machines, and the pages name tenants and their "
                "costs: set COSTTRACE_UI_TOKEN_FILE to a file (mode 0600) with a token of 16 characters or more, or "
                "leave it on 127.0.0.1 and use `ssh -L`"
            )
        if self.token and len(self.token) < SHORTEST_TOKEN:
            raise CosttraceError(f"the token of the live page is shorter than {SHORTEST_TOKEN} characters")

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server: a name that another site lets point here is not one (rebinding)."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name == "localhost" or name in {known.lower() for known in self.names}:
            return True
        try:
            ip, own = ipaddress.ip_address(name), ipaddress.ip_address(self.address)
        except ValueError:
            return False
        return ip.is_loopback or ip == own or own.is_unspecified

    def admits(self, authorization: str) -> bool:
        """Whether the token was given, as a bearer token or as the password of a user without a name that matters."""
        if not self.token:
            return True
        scheme, _, value = authorization.partition(" ")
        given = value.strip()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode("utf-8", "replace").partition(":")[2]
            except binascii.Error:
                given = ""
        elif scheme.lower() != "bearer":
            given = ""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


class Server(ThreadingHTTPServer):
    """Serves one ledger."""

    daemon_threads = True

    def __init__(self, door: Door, port: int, answers: Answers) -> None:
        door.check()
        self.door, self.answers, self.room = door, answers, BoundedSemaphore(AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in door.address else socket.AF_INET
        super().__init__((door.address, port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news; nothing that was asked for is printed."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """Answer."""
        self._respond(self._answer())

    do_HEAD = do_GET  # noqa: N815 - http.server's names

    def __getattr__(self, name: str) -> object:
        """Every other method is refused: nothing here can be changed."""
        if name.startswith("do_"):
            return lambda: self._respond(Answer(405, PLAIN, b"only GET and HEAD: nothing here can be changed\n"))
        raise AttributeError(name)

    def _answer(self) -> Answer:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.door.knows(hosts[0]):
            return Answer(421, PLAIN, b"this server is not known by that name: see costtrace ui --allow-host\n")
        if not self.server.door.admits(self.headers.get("Authorization", "")):
            return Answer(401, PLAIN, b"a token is needed: as a bearer token, or as the password with any user name\n")
        if not self.server.room.acquire(blocking=False):
            return Answer(503, PLAIN, b"too many requests at once: come again\n")
        try:
            path, _, query = self.path.partition("?")
            return self.server.answers.answer(path, query)
        finally:
            self.server.room.release()

    def _respond(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": self.server.answers.style.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            **_MORE.get(answer.status, {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        """The name without versions: who looks for weak ones learns none."""
        return "costtrace"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing: addresses name requests and tenants."""


_MORE = {
    401: {"WWW-Authenticate": 'Basic realm="costtrace", charset="UTF-8"'},
    405: {"Allow": "GET, HEAD"},
    503: {"Retry-After": "2"},
}


def own_style() -> Style:
    """The style of the board with the live pages' own, and their script."""
    css = files("costtrace.reports.output").joinpath("page.css").read_text(encoding="utf-8")
    own = files("costtrace_ui.web")
    css += own.joinpath("ui.css").read_text(encoding="utf-8")
    return Style(css, own.joinpath("ui.js").read_text(encoding="utf-8"))
