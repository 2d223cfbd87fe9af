"""Whose request it is, from what Dynamo hands a worker."""

import pytest
from costtrace_dynamo import identity

CHANNELS = ("metadata:tenant", "cache_salt", "annotation:tenant")


def test_the_first_channel_that_names_a_tenant_decides():
    request = {"routing": {"cache_salt": "dynamo-cache-salt:globex"}, "annotations": ["other:x", "tenant:initech"]}
    assert identity.tenant_of(CHANNELS, {"tenant": "acme"}, request) == ("acme", "metadata:tenant")
    assert identity.tenant_of(CHANNELS, {}, request) == ("globex", "cache_salt")
    assert identity.tenant_of(CHANNELS[::2], {}, request) == ("initech", "annotation:tenant")
    assert identity.tenant_of(CHANNELS[:1], {}, request) == ("", "default"), "others are not trusted"


@pytest.mark.parametrize("name", ["__other__", "ü", "a" * 200, "a\nb"])
def test_a_name_that_cannot_be_a_tenants_is_rejected_and_no_other_channel_is_asked(name):
    request = {"routing": {"cache_salt": "globex"}}
    assert identity.tenant_of(CHANNELS, {"tenant": name}, request) == ("", "rejected:invalid")


@pytest.mark.parametrize(
    "request_", [{}, {"routing": None}, {"routing": {"cache_salt": 7}}, {"annotations": "tenant:x"}]
)
def test_malformed_input_names_no_tenant(request_):
    assert identity.tenant_of(CHANNELS, {"tenant": None}, request_) == ("", "default")


def test_what_a_client_chooses_is_cut():
    parent = "cc-" + "ab" * 16 + "-" + "cd" * 8 + "-01-" + "x" * 1_000_000
    traceparent = identity.traceparent_of({"traceparent": parent})
    context = identity.request_context("d" * 1_000_000, "prefill", ("", "default"), "ant", traceparent=traceparent)
    assert (len(context.request_id), len(context.traceparent)) == (273, 273)
    assert context.request_key == f"dynamo:{context.request_id}"
