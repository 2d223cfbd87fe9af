"""Who may name a tenant is decided by the address that connected, not by what a header says of it."""

import asyncio

import pytest
from costtrace_vllm.server_side import requests

from costtrace.capture.asgi import wrap_peer

proxy_headers = pytest.importorskip(
    "uvicorn.middleware.proxy_headers", reason="uvicorn is in vLLM's environment, and not in this one"
)


def resolved(client, *, forwarded):
    """The identity that the server finds, behind uvicorn's own middleware told to believe everybody."""
    found = []

    async def application(scope, receive, send):
        caller = requests.Caller(scope)
        caller.resolve()
        found.append(caller.identity)

    headers = [(b"x-costtrace-tenant", b"acme"), (b"x-forwarded-for", forwarded)]
    scope = {"type": "http", "client": client, "scheme": "http", "headers": headers}
    middleware = proxy_headers.ProxyHeadersMiddleware(application, trusted_hosts="*")
    wrapped = wrap_peer(proxy_headers.ProxyHeadersMiddleware.__call__)
    asyncio.run(wrapped(middleware, scope, None, None))
    return found[0]


def test_a_stranger_who_claims_to_be_the_loopback_is_not_believed():
    identity = resolved(("203.0.113.9", 4711), forwarded=b"127.0.0.1")
    assert (identity.tenant, identity.source) == ("default", "rejected:untrusted")


def test_a_gateway_on_this_host_that_forwards_a_client_may_name_its_tenant():
    identity = resolved(("127.0.0.1", 4711), forwarded=b"203.0.113.9")
    assert (identity.tenant, identity.source) == ("acme", "header")
