"""Who asks, as the server finds it: tenant, labels and route of a request, and who may name them."""

import asyncio

import pytest
from costtrace_vllm.server_side.caller import Caller
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from costtrace.capture.asgi import wrap_peer
from costtrace.config import load as config


@pytest.fixture
def labels(configure):
    """The labels that a request of these headers gets."""

    def labels_of(path, *headers, peer="127.0.0.1", **variables):
        configure(**variables)
        caller = Caller({"path": path, "headers": list(headers), "client": (peer, 5)})
        return caller.resolve().labels

    return labels_of


WORKLOAD = (b"x-costtrace-workload", b"search")


def test_a_request_has_its_workload_from_a_trusted_peer_and_its_route_from_the_server(labels):
    assert labels("/v1/chat/completions", WORKLOAD) == {"workload": "search", "route": "chat/completions"}
    assert labels("/v1/chat/completions", WORKLOAD, peer="203.0.113.9") == {"route": "chat/completions"}
    assert labels("/v1/embeddings") == {"route": "embeddings"}
    assert labels("", WORKLOAD) == {"workload": "search"}


def test_labels_can_be_chosen_or_switched_off(labels):
    assert labels("/v1/completions", WORKLOAD, COSTTRACE_REQUEST_LABELS="none") == {}
    assert labels("/v1/completions", WORKLOAD, COSTTRACE_REQUEST_LABELS="endpoint=:path") == {"endpoint": "completions"}
    with pytest.raises(config.ConfigError, match="same header"):
        config.load(env={"COSTTRACE_REQUEST_LABELS": "a=:path,b=:path"})


def resolved(client, *, forwarded):
    """The identity that the server finds, behind uvicorn's own middleware that trusts every peer."""
    identities = []

    async def application(scope, receive, send):
        identities.append(Caller(scope).resolve())

    headers = [(b"x-costtrace-tenant", b"acme"), (b"x-forwarded-for", forwarded)]
    scope = {"type": "http", "client": client, "scheme": "http", "headers": headers}
    middleware = ProxyHeadersMiddleware(application, trusted_hosts="*")
    wrapped = wrap_peer(ProxyHeadersMiddleware.__call__)
    asyncio.run(wrapped(middleware, scope, None, None))
    return identities[0]


def test_a_remote_client_that_claims_to_be_the_loopback_is_not_trusted():
    identity = resolved(("203.0.113.9", 4711), forwarded=b"127.0.0.1")
    assert (identity.tenant, identity.source) == ("default", "rejected:untrusted")


def test_a_gateway_on_this_host_that_forwards_a_client_may_name_its_tenant():
    identity = resolved(("127.0.0.1", 4711), forwarded=b"203.0.113.9")
    assert (identity.tenant, identity.source) == ("acme", "header")
