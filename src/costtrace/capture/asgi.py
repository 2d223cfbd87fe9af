"""The peer of a connection to an ASGI server: the other end of the socket, whatever a header claims later."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

PEER_KEY = "costtrace.peer"
"""Key in the scope of a request: the address that really connected."""


def wrap_peer(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `ProxyHeadersMiddleware.__call__`: keep the address that really connected.

    The middleware replaces it by what X-Forwarded-For says, which with a wide FORWARDED_ALLOW_IPS any client can
    claim. Whether a peer may name a tenant is decided by the address that the connection came from.
    """

    @wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> Any:  # noqa: N807, ANN401 - its name; a server's
        scope.setdefault(PEER_KEY, scope.get("client"))
        return await original(self, scope, receive, send)

    return __call__


def peer_of(scope: Mapping[str, Any]) -> str | None:
    """Address that the connection of a request came from; None for a unix socket; '' where nobody knows.

    A connection that was reset before it was accepted has no address either: a unix socket is recognised by the
    server's end of it, which has a path (with a slash in it) and no port.
    """
    client = scope[PEER_KEY] if PEER_KEY in scope else scope.get("client")
    if client and isinstance(client[0], str):
        return client[0]
    match scope.get("server"):
        case [str(path), None] if "/" in path:
            return None
    return ""


def headers_of(scope: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Headers of a request, as they came."""
    return list(scope.get("headers") or ())
