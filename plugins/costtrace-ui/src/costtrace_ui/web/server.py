"""The HTTP server of `costtrace ui`: GET and HEAD only, and who may ask it under which host name."""

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from threading import BoundedSemaphore
from typing import NamedTuple

from costtrace.core.bounded_server import BoundedServer
from costtrace.core.errors import CosttraceError
from costtrace_ui.web.html_parts import Style
from costtrace_ui.web.responses import Responder, Response

AT_ONCE = 8
"""How many requests are answered at a time; others get a 503 with Retry-After."""
TIMEOUT_S = 10
SHORTEST_TOKEN = 16
PLAIN = "text/plain; charset=utf-8"


class AccessPolicy(NamedTuple):
    """Who may read the pages: the address to listen on, the token, the host names."""

    address: str
    """The IP address that the server listens on."""
    token: str
    """'': no token is needed."""
    names: Collection[str] = ()
    """Host names that it answers to, beside localhost and its address."""

    def check(self) -> None:
        """Raises: CosttraceError, where others could read the pages without a token, or the token is too short."""
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
        """Whether a Host header names this server. A foreign name that resolves here does not (DNS rebinding)."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.removeprefix("[").removesuffix("]").lower()
        if name == "localhost" or name in {known.lower() for known in self.names}:
            return True
        try:
            ip, listening = ipaddress.ip_address(name), ipaddress.ip_address(self.address)
        except ValueError:
            return False
        return ip.is_loopback or ip == listening or listening.is_unspecified

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header has the token, as a bearer token or as the password of any user."""
        if not self.token:
            return True
        scheme, _, value = authorization.partition(" ")
        offered = value.strip()
        if scheme.lower() == "basic":
            try:
                offered = base64.b64decode(offered, validate=True).decode("utf-8", "replace").partition(":")[2]
            except binascii.Error:
                offered = ""
        elif scheme.lower() != "bearer":
            offered = ""
        return hmac.compare_digest(offered.encode("utf-8", "replace"), self.token.encode())


class Server(BoundedServer, HTTPServer):
    """Serves one ledger's pages, a thread for each request."""

    longest_s = 600.0
    """The audit of a large ledger takes minutes."""

    def __init__(self, policy: AccessPolicy, port: int, responder: Responder) -> None:
        policy.check()
        self.policy, self.responder, self.slots = policy, responder, BoundedSemaphore(AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in policy.address else socket.AF_INET
        super().__init__((policy.address, port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Handles one HTTP request."""

    server: Server
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """Respond to GET; HEAD is the same without a body."""
        self._respond(self._answer())

    do_HEAD = do_GET  # noqa: N815 - http.server's names

    def __getattr__(self, name: str) -> object:
        """Refuse every other method: nothing here can be changed."""
        if name.startswith("do_"):
            return lambda: self._respond(Response(405, PLAIN, b"only GET and HEAD: nothing here can be changed\n"))
        raise AttributeError(name)

    def _answer(self) -> Response:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.policy.knows(hosts[0]):
            return Response(421, PLAIN, b"this server is not known by that name: see costtrace ui --allow-host\n")
        if not self.server.policy.admits(self.headers.get("Authorization", "")):
            return Response(
                401, PLAIN, b"a token is needed: as a bearer token, or as the password with any user name\n"
            )
        if not self.server.slots.acquire(blocking=False):
            return Response(503, PLAIN, b"too many requests at once: come again\n")
        try:
            path, _, query = self.path.partition("?")
            return self.server.responder.respond(path, query)
        finally:
            self.server.slots.release()

    def _respond(self, answer: Response) -> None:
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": self.server.responder.style.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            **_EXTRA_HEADERS.get(answer.status, {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        """The name without versions, which would help an attacker."""
        return "costtrace"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing: addresses name requests and tenants."""


_EXTRA_HEADERS = {
    401: {"WWW-Authenticate": 'Basic realm="costtrace", charset="UTF-8"'},
    405: {"Allow": "GET, HEAD"},
    503: {"Retry-After": "2"},
}


def load_style() -> Style:
    """The style of all costtrace's pages with the live pages' own, and their script."""
    css = files("costtrace_ui").joinpath("page.css").read_text(encoding="utf-8")
    package = files("costtrace_ui.web")
    css += package.joinpath("ui.css").read_text(encoding="utf-8")
    return Style(css, package.joinpath("ui.js").read_text(encoding="utf-8"))
