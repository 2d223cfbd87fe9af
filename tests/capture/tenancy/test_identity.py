"""Whose request is it? Only what a trusted peer says counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costtrace.capture.tenancy import identity as tenancy
from costtrace.capture.tenancy.identity import Identity, TenancyPolicy, resolve

LOCAL = "127.0.0.1"
POLICY = TenancyPolicy()
TENANT = b"x-costtrace-tenant"
LLM_D = b"x-llm-d-tenant-id"


def who(*headers, peer=LOCAL, policy=POLICY):
    identity = resolve(headers, peer, policy)
    return identity.tenant, identity.source


def test_a_trusted_peer_names_the_tenant():
    assert who((b"host", b"x"), (TENANT, b"acme")) == ("acme", "header")


def test_without_a_claim_it_is_the_default_tenants():
    assert resolve([(b"host", b"x")], LOCAL, POLICY) == Identity("default", "default", "", {})


def test_the_header_of_the_llm_d_router_is_read_too_and_ours_comes_first():
    assert who((LLM_D, b"router")) == ("router", "header")
    assert who((LLM_D, b"router"), (TENANT, b"ours")) == ("ours", "header")


def test_header_names_compare_without_regard_to_case():
    assert who((b"X-Costtrace-Tenant", b"acme")) == ("acme", "header")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None])
def test_loopback_and_unix_sockets_are_trusted(peer):
    assert who((TENANT, b"acme"), peer=peer) == ("acme", "header")


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "::2", "::ffff:10.0.0.1", "fe80::1%x", "localhost", "127.0.0.1 ", "\x00", ""]
)
def test_anybody_else_is_not_trusted_by_default(peer):
    assert who((TENANT, b"acme"), peer=peer) == ("default", "rejected:untrusted")


def test_an_untrusted_peer_without_a_claim_is_just_the_default():
    assert who((b"host", b"x"), peer="10.0.0.1") == ("default", "default")


def test_trusted_peers_replace_the_default_ones():
    policy = TenancyPolicy(trusted_peers=["10.0.0.0/8", "fd00::/8", "192.0.2.7"])
    for peer in ("10.1.2.3", "fd00::5", "192.0.2.7", "::ffff:10.1.2.3"):
        assert who((TENANT, b"acme"), peer=peer, policy=policy) == ("acme", "header")
    for peer in (LOCAL, "192.0.2.8"):
        assert who((TENANT, b"acme"), peer=peer, policy=policy) == ("default", "rejected:untrusted")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"  \t ",
        b"a" * 129,
        b"x" * 10_000,
        b"a\x00b",
        b"a\nb",
        b"a\tb",
        b"a\x7fb",
        b"\xff\xfe",
        "grün".encode(),
        b"__other__",
        b"a,b",
        b"a,",
    ],
)
def test_a_value_that_cannot_be_a_name_is_rejected(value):
    assert who((TENANT, value)) == ("default", "rejected:invalid")


def test_a_rejected_first_header_does_not_fall_through_to_the_next():
    assert who((TENANT, b"\xff"), (LLM_D, b"other")) == ("default", "rejected:invalid")


def test_the_longest_name_is_accepted_and_white_space_around_it_is_not_part_of_it():
    assert who((TENANT, b" " + b"a" * 128 + b"\t")) == ("a" * 128, "header")
    assert who((TENANT, b"Acme Inc. / Research")) == ("Acme Inc. / Research", "header")


def test_repeated_headers_count_only_if_they_agree():
    assert who((TENANT, b"a"), (TENANT, b"a ")) == ("a", "header")
    assert who((TENANT, b"a, a")) == ("a", "header")
    assert who((TENANT, b"a"), (TENANT, b"b")) == ("default", "rejected:invalid")
    assert who((TENANT, b"a"), (TENANT.upper(), b"b")) == ("default", "rejected:invalid")


def test_the_default_tenant_and_the_headers_can_be_chosen():
    policy = TenancyPolicy(headers=["X-Team"], default="shared", max_length=4)
    assert who((b"x-team", b"blue"), policy=policy) == ("blue", "header")
    assert who((b"x-team", b"green"), policy=policy) == ("shared", "rejected:invalid")
    assert who((TENANT, b"blue"), policy=policy) == ("shared", "default")
    assert who((b"x-team", b"blue"), peer="10.0.0.1", policy=policy) == ("shared", "rejected:untrusted")


def test_sources_are_asked_in_order_and_a_rejection_is_the_last_word_only_if_no_other_source_names_a_tenant():
    def silent(headers, *, trusted):
        return None

    def key(headers, *, trusted):
        return Identity("by-key", "api_key", "", {}) if (b"authorization", b"k") in headers else None

    policy = TenancyPolicy(sources=[silent, tenancy.HeaderSource(), key])
    assert who((TENANT, b"acme"), (b"authorization", b"k"), policy=policy) == ("acme", "header")
    assert who((TENANT, b"acme"), (b"authorization", b"k"), peer="10.0.0.1", policy=policy) == ("by-key", "api_key")
    assert who((TENANT, b"acme"), peer="10.0.0.1", policy=policy) == ("default", "rejected:untrusted")


@pytest.mark.parametrize("bad", ["10.0.0.0/33", "host.example", "10.0.0.1/8", ""])
def test_a_trusted_peer_that_is_no_network_is_an_error_that_names_it(bad):
    with pytest.raises(ValueError, match="Examples"):
        TenancyPolicy(trusted_peers=[bad])


@pytest.mark.parametrize("bad", ["", "x tenant", "x:y", "tënant"])
def test_a_header_name_that_cannot_be_one_is_an_error(bad):
    with pytest.raises(ValueError, match="HTTP header"):
        TenancyPolicy(headers=[bad])


def test_the_cache_of_peers_is_bounded():
    policy = TenancyPolicy()
    for number in range(3 * tenancy._PEERS_KEPT):
        policy.trusts(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(policy._known) <= tenancy._PEERS_KEPT


names = st.one_of(st.sampled_from([TENANT, LLM_D, TENANT.upper(), b"baggage"]), st.binary(max_size=30))


@given(
    st.lists(st.tuples(names, st.binary(max_size=300)), max_size=8),
    st.one_of(st.none(), st.text(max_size=40), st.sampled_from([LOCAL, "10.0.0.1", "::1", "fe80::1%x"])),
)
def test_no_bytes_make_it_raise_and_only_a_trusted_peer_leaves_the_default(headers, peer):
    identity = resolve(headers, peer, POLICY)
    assert 0 < len(identity.tenant) <= tenancy.MAX_LENGTH
    assert identity.tenant.isascii()
    assert identity.tenant.isprintable()
    assert identity.source in {"header", "default", "rejected:untrusted", "rejected:invalid"}
    if identity.tenant != "default":
        assert identity.source == "header"
        assert POLICY.trusts(peer)
