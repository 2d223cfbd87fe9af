"""Fuzz targets: what a client can send. Headers, tokens, ids, and the context that travels beside a request."""

import json
import time
from pathlib import Path
from tempfile import mkdtemp

import jwt
from costtrace_dynamo import identity as dynamo
from costtrace_tensorrt_llm import request_context as trtllm_context
from costtrace_vllm import request_context as vllm_context
from costtrace_vllm.engine_side.sequences import Sequences
from costtrace_vllm.server_side.routes import OTHER, WORK, route_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from mutations import documents

from costtrace.capture.asgi import peer_of
from costtrace.capture.request_context import traceparent_of
from costtrace.capture.tenancy.identity import TenancyPolicy, resolve
from costtrace.capture.tenancy.sources import BaggageSource, JwtSource
from costtrace.config.tenant_names import tenant_name
from costtrace.core.events import SequenceAdded
from costtrace.journal import frames

LONGEST = 320
"""Characters: no text of a client's is longer in a record."""

_KEY = Ed25519PrivateKey.generate()
_JWKS = Path(mkdtemp(prefix="costtrace-fuzz-")) / "jwks.json"
_JWKS.write_text(json.dumps({"keys": [json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(_KEY.public_key()))]}))
_POLICY = TenancyPolicy(
    sources=[
        JwtSource(_JWKS, claim="tenant", issuer="", audience="", max_length=128),
        BaggageSource("tenant", max_length=128),
    ]
)
_NAMES = (
    b"authorization",
    b"x-api-key",
    b"baggage",
    b"traceparent",
    b"x-costtrace-tenant",
    b"x-costtrace-workload",
    b"X-REQUEST-ID",
)
_PIECES = (
    "tenant=acme",
    "Bearer ",
    "a" * 5_000,
    "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    ";,=%",
    "%00",
    "\u00e9",
    "__other__",
)
any_text = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["costtrace:stop:1:zz", "dynamo:x", "disagg-7", "~x", "0_cmpl-a-0", "\udc80", "x" * 100_000, ""]),
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(["cmpl-", "chatcmpl-", "-0", "-beam-1", "0_", "-prompt-1-chunk-2", "a1b2c3d4", "-"]),
            max_size=6,
        ),
    ),
)
_value = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda parts: "".join(parts).encode(), st.lists(st.sampled_from(_PIECES), max_size=4)),
)
_headers = st.lists(st.tuples(st.sampled_from(_NAMES), _value), max_size=5)
_host = st.one_of(st.none(), st.just("127.0.0.1"), st.just("203.0.113.9"), st.text(max_size=9))
_end = st.one_of(
    st.none(), st.tuples(_host, st.one_of(st.none(), st.integers(0, 65_535))), st.tuples(_host, st.none()).map(list)
)


def headers(given, folder):
    """No header makes an error, and none names a tenant for a peer that is not trusted."""
    del folder
    some, scope = given
    peer = peer_of(scope)
    identity = resolve(some, peer, _POLICY, "")
    assert tenant_name(identity.tenant.encode()) == identity.tenant
    if peer is not None and not _POLICY.trusts(peer):
        assert identity.tenant == "default"
    assert len(traceparent_of(some)) <= LONGEST


@st.composite
def _tokens(draw):
    claims = {"tenant": "acme", "exp": int(time.time()) + 600, "iss": "me", "aud": "us", "nbf": 0}
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    payload = draw(documents(claims))
    text = json.dumps(payload).encode()
    signed = jwt.PyJWS().encode(text, _KEY, algorithm="EdDSA", headers={"typ": "JWT"})
    if draw(st.booleans()):
        at = draw(st.integers(0, len(signed) - 1))
        signed = signed[:at] + draw(st.sampled_from(["A", ".", "=", "\n"])) + signed[at + 1 :]
    return signed.encode()


def token(data, folder):
    """A signed token with any claims, or any bytes: a tenant with a proper name, or nobody."""
    del folder
    identity = resolve([(b"authorization", b"Bearer " + data)], "203.0.113.9", _POLICY, "")
    assert tenant_name(identity.tenant.encode()) == identity.tenant


def ids(given, folder):
    """Reading an id takes no time that grows with the square of its length."""
    del folder
    internal, external = given
    begun = time.perf_counter()
    vllm_context.prompt_of(internal, external)
    vllm_context.response_id(external, pooling=False)
    vllm_context.response_id(external, pooling=True)
    vllm_context.external_of(internal)
    assert time.perf_counter() - begun < 1


_CONTEXT = ["key", "id", "prompt", "chat", "acme", "header", "", 5, "boot", "", {"workload": "x"}, ""]


def vllm_carrier(given, folder):
    """Whatever the text beside a request says, the engine's record of it can be written and read."""
    del folder
    text, name = given
    sequences = Sequences("m", "boot")
    added = sequences.add(1, name, text, 4, "", pooling=False)
    assert isinstance(added, SequenceAdded)
    _can_be_kept(added)


def trtllm_carrier(text, folder):
    del folder
    context = trtllm_context.decode(text)
    assert context is None or isinstance(context.tenant, str)


def _can_be_kept(added):
    data = frames.pack(0, [added])
    read = frames.unpack(data, 0)
    assert isinstance(read, frames.Frame), read
    assert frames.pack(0, read.events) == data
    for field in ("sequence_id", "request_id", "request_key", "prompt_key", "tenant", "traceparent", "user", "model"):
        assert len(getattr(added, field)) <= LONGEST, field


_REQUEST = {
    "routing": {"cache_salt": "dynamo-cache-salt:acme"}, "annotations": ["tenant:acme", "x"], "token_ids": [1, 2],
    "prefill_result": None,
}  # fmt: skip


def dynamo_claims(given, folder):
    """Any JSON as a Dynamo request and its metadata: a tenant with a proper name, or none."""
    del folder
    metadata, request, request_id = given
    for channels in (("metadata:tenant",), ("annotation:tenant", "cache_salt"), ("cache_salt", "metadata:tenant")):
        if isinstance(metadata, dict) and isinstance(request, dict):
            tenant, source = dynamo.tenant_of(channels, metadata, request)
            assert not tenant or tenant_name(tenant.encode()) == tenant
            context = dynamo.request_context(request_id, "decode", (tenant, source), "default")
            assert tenant_name(context.tenant.encode()) == context.tenant


def route(path, folder):
    """A route is one of a few names, whatever the path."""
    del folder
    assert route_of(path) in {"", OTHER, "chat/completions", *WORK}


_scope = st.fixed_dictionaries({}, optional={"client": _end, "server": _end, "headers": st.just([])}).map(dict)
_json_text = st.one_of(
    documents(_CONTEXT).map(json.dumps),
    st.text(max_size=40),
    st.sampled_from(
        ["[" * 5_000, "[" * 100, '["a",' + "1" * 400 + "]", json.dumps([*_CONTEXT[:7], 10**22, *_CONTEXT[8:]])]
    ),
)

CLIENT_TARGETS = {
    "headers": (st.tuples(_headers, _scope), headers),
    "token": (_tokens(), token),
    "ids": (st.tuples(any_text, any_text), ids),
    "vllm-carrier": (st.tuples(_json_text, any_text), vllm_carrier),
    "trtllm-carrier": (_json_text, trtllm_carrier),
    "dynamo-claims": (st.tuples(documents({"tenant": "acme"}), documents(_REQUEST), any_text), dynamo_claims),
    "route": (any_text, route),
}
