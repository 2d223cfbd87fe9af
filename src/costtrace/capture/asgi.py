"""Who connected to a server that speaks ASGI: the peer as it really is, whatever a header makes of it later."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

PEER_KEY = "costtrace.peer"
"""In the scope of a request: who really connected."""


def wrap_peer(original: Callable[..., Any]) -> Callable[..., Any]:
    """`ProxyHeadersMiddleware.__call__`: remember who really connected.

    It replaces the peer by what X-Forwarded-For says. That is a claim, and with a wide FORWARDED_ALLOW_IPS anybody's
    claim: whether a hop may name a tenant is decided by the address that the connection came from.
    """

    @wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> Any:  # noqa: N807, ANN401 - its name; a server's
        scope.setdefault(PEER_KEY, scope.get("client"))
        return await original(self, scope, receive, send)

    return __call__


def peer_of(scope: Mapping[str, Any]) -> str | None:
    """Address that the connection of a request came from; None where the server does not know it."""
    client = scope[PEER_KEY] if PEER_KEY in scope else scope.get("client")
    return client[0] if client else None


def headers_of(scope: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Headers of a request, as they came."""
    return list(scope.get("headers") or ())
