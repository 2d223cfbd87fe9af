"""API keys, signed tokens and baggage: what proves itself counts, what is forged does not, and no key is kept."""

import json
import os
import stat
import time
from base64 import urlsafe_b64encode
from contextlib import closing

import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from honest_ledger import write
from hypothesis import given
from hypothesis import strategies as st

from costtrace.capture.tenancy.identity import TenancyPolicy, resolve
from costtrace.capture.tenancy.policy import policy_of
from costtrace.capture.tenancy.sources import LOOK_EVERY_S, BaggageSource, JwtSource, KeySource
from costtrace.cli.app import cli
from costtrace.config.load import load
from costtrace.ledger import Ledger

LOCAL, FAR = "127.0.0.1", "203.0.113.9"
CANARY = "ct-canary-9f8e7d6c5b4a39281706"
OTHER = "ct-other-00112233445566778899"
SECRET = b"a-secret-that-nobody-guesses"


def bearer(token):
    return b"authorization", b"Bearer " + (token if isinstance(token, bytes) else token.encode())


def run(*words, stdin=""):
    return CliRunner().invoke(cli, [*words], input=stdin, catch_exceptions=False, standalone_mode=False)


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.json"
    for tenant, key in (("acme", CANARY), ("globex", OTHER)):
        run("tenants", "add-key", tenant, "--stdin", "--keys", str(path), stdin=key + "\n")
    return path


def who(policy, *headers, peer=FAR, model=""):
    identity = resolve(headers, peer, policy, model)
    return identity.tenant, identity.source


# -- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_names_its_tenant_from_any_peer_and_under_either_header(keys):
    policy = TenancyPolicy(sources=[KeySource(keys)])
    assert who(policy, bearer(CANARY)) == ("acme", "key")
    assert who(policy, (b"X-API-Key", OTHER.encode())) == ("globex", "key")
    assert who(policy, bearer(CANARY + "x")) == ("default", "default")
    assert who(policy, bearer(b"")) == ("default", "default")


def test_two_keys_of_two_tenants_are_nobodys(keys):
    policy = TenancyPolicy(sources=[KeySource(keys)])
    assert who(policy, bearer(CANARY), (b"x-api-key", OTHER.encode())) == ("default", "rejected:invalid")
    assert who(policy, bearer(CANARY), bearer(CANARY)) == ("acme", "key")


def test_a_key_goes_before_a_header_that_claims_somebody_else(keys):
    policy = policy_of(load({"tenant_keys": keys}, env={"HOME": "/tmp"}))
    assert who(policy, (b"x-costtrace-tenant", b"victim"), bearer(CANARY)) == ("acme", "key")
    assert who(policy, (b"x-costtrace-tenant", b"victim")) == ("default", "rejected:untrusted")


@pytest.mark.swallows
def test_a_key_file_is_read_again_when_it_changed_and_kept_when_it_is_broken(keys):
    now = [0.0]
    policy = TenancyPolicy(sources=[KeySource(keys, clock=lambda: now[0])])
    assert who(policy, bearer(CANARY)) == ("acme", "key")
    fingerprint = json.loads(run("tenants", "keys", "--keys", str(keys), "--format", "json").stdout)["keys"]
    (mine,) = [row["fingerprint"] for row in fingerprint if row["tenant"] == "acme"]
    run("tenants", "remove-key", mine, "--keys", str(keys))
    assert who(policy, bearer(CANARY)) == ("acme", "key")
    now[0] += LOOK_EVERY_S
    assert who(policy, bearer(CANARY)) == ("default", "default")
    assert who(policy, bearer(OTHER)) == ("globex", "key")
    keys.unlink()
    now[0] += LOOK_EVERY_S
    assert who(policy, bearer(OTHER)) == ("globex", "key")


def test_no_key_stands_in_the_file_or_on_the_screen_and_only_the_owner_reads_the_file(tmp_path):
    path = tmp_path / "sub" / "keys.json"
    shown = run("tenants", "add-key", "acme", "--stdin", "--keys", str(path), stdin=CANARY + "\n").output
    made = run("tenants", "add-key", "acme", "--label", "ci", "--keys", str(path)).output
    key = made.splitlines()[-1]
    shown += run("tenants", "keys", "--keys", str(path)).output
    assert who(TenancyPolicy(sources=[KeySource(path)]), bearer(key)) == ("acme", "key")
    text = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for secret in (CANARY, key, key.removeprefix("ct-")):
        assert secret not in text
        assert secret not in shown
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    ("tenant", "key"),
    [("acme", "short"), ("acme", "has a space in its middle"), ("__other__", CANARY), ("a\nb", CANARY), ("", CANARY)],
)
def test_keys_that_can_be_guessed_and_names_that_cannot_be_tenants_are_refused(tmp_path, tenant, key):
    from costtrace.cli.app import run as main

    path = tmp_path / "keys.json"
    with pytest.MonkeyPatch.context() as patch:
        import io

        patch.setattr("sys.stdin", io.StringIO(key + "\n"))
        assert main(["tenants", "add-key", tenant, "--stdin", "--keys", str(path)]) != 0
    assert not path.exists()


def test_of_a_key_nothing_goes_to_the_engine_or_into_a_log(keys, monkeypatch, caplog):
    from costtrace_vllm import request_context
    from costtrace_vllm.process import process
    from costtrace_vllm.server_side.caller import Caller

    monkeypatch.setenv("COSTTRACE_TENANT_KEYS", str(keys))
    process.forget()
    try:
        caller = Caller({"headers": [bearer(CANARY), (b"x-user", b"jane")], "client": (FAR, 1)})
        caller.resolve()
    finally:
        process.forget()
    identity = caller.identity
    assert (identity.tenant, identity.source) == ("acme", "key")
    context = request_context.RequestContext(
        caller.key, "id", "", "chat", identity.tenant, identity.source, caller.traceparent, 0, "", identity.user,
        identity.labels,
    )  # fmt: skip
    sent = request_context.encode(context)
    for secret in (CANARY, CANARY.removeprefix("ct-"), "jane", *json.loads(keys.read_text())["keys"]):
        assert secret not in str(sent)
        assert secret not in caplog.text


# -- the proxy, the adapter, the user -----------------------------------------------------------------------------


def test_a_peer_that_knows_the_secret_is_trusted_and_a_short_or_doubled_secret_is_none():
    policy = TenancyPolicy(secret=SECRET)
    claim = (b"x-costtrace-tenant", b"acme")
    sent = (b"X-Costtrace-Secret", SECRET)
    assert who(policy, claim, sent) == ("acme", "header")
    for wrong in ([claim], [claim, (sent[0], SECRET[:-1])], [claim, sent, sent], [claim, (sent[0], b"")]):
        assert who(policy, *wrong) == ("default", "rejected:untrusted")
    assert who(TenancyPolicy(secret=b"short"), claim, (sent[0], b"short")) == ("default", "rejected:untrusted")
    assert who(TenancyPolicy(), claim, (sent[0], b"")) == ("default", "rejected:untrusted")


def test_an_adapter_has_a_tenant_where_nobody_is_named():
    policy = TenancyPolicy(models={"acme-lora": "acme"}, default="shared")
    assert who(policy, model="acme-lora") == ("acme", "model")
    assert who(policy, (b"x-costtrace-tenant", b"b"), peer=LOCAL, model="acme-lora") == ("b", "header")
    assert who(policy, (b"x-costtrace-tenant", b"b"), model="acme-lora") == ("acme", "model")
    assert who(policy, (b"x-costtrace-tenant", b"b"), model="x") == ("shared", "rejected:untrusted")


def test_a_user_is_a_pseudonym_and_only_where_that_is_wanted_and_a_trusted_peer_names_it():
    headers = [(b"x-costtrace-tenant", b"acme"), (b"x-user", b"jane@example.com")]
    assert resolve(headers, LOCAL, TenancyPolicy()).user == ""
    assert resolve(headers, LOCAL, TenancyPolicy(user_header="x-user")).user == ""
    policy = TenancyPolicy(user_header="x-user", user_secret=SECRET)
    user = resolve(headers, LOCAL, policy).user
    assert user.startswith("u-")
    assert "jane" not in user
    assert user == resolve(headers, LOCAL, policy).user
    assert user != resolve(headers, LOCAL, TenancyPolicy(user_header="x-user", user_secret=SECRET + b"2")).user
    assert resolve(headers, FAR, policy).user == ""
    assert resolve([*headers, (b"x-user", b"john")], LOCAL, policy).user == ""


LABELLED = TenancyPolicy(labels={"workload": "X-Workload", "conversation": "x-conversation-id"})


@pytest.mark.parametrize(
    ("more", "peer", "labels"),
    [
        (
            [(b"X-Workload", b" search "), (b"x-conversation-id", b"c-1")],
            LOCAL,
            {"workload": "search", "conversation": "c-1"},
        ),
        ([(b"x-workload", b"search")], FAR, {}),
        (
            [(b"x-workload", b"a"), (b"x-workload", b"b"), (b"x-conversation-id", b"c-1")],
            LOCAL,
            {"conversation": "c-1"},
        ),
        ([(b"x-workload", b"a"), (b"x-workload", b"a")], LOCAL, {"workload": "a"}),
        ([(b"x-workload", b"line\nfeed")], LOCAL, {}),
        ([(b"x-workload", b"w" * 129)], LOCAL, {}),
        ([], LOCAL, {}),
    ],
)
def test_labels_are_those_that_a_trusted_peer_gives(more, peer, labels):
    assert resolve([(b"x-costtrace-tenant", b"acme"), *more], peer, LABELLED).labels == labels
    assert resolve(more, peer, LABELLED).labels == labels
    assert resolve(more, peer, TenancyPolicy()).labels == {}


def test_labels_are_set_up_by_name_and_header(monkeypatch):
    from costtrace.config import load as config

    policy = policy_of(config.load(env={"COSTTRACE_REQUEST_LABELS": "workload=X-Workload"}))
    assert resolve([(b"x-workload", b"search")], LOCAL, policy).labels == {"workload": "search"}
    for wrong in ("Work load=x-w", "a=x y", "a=x,b=X", "a"):
        with pytest.raises(config.ConfigError):
            config.load(env={"COSTTRACE_REQUEST_LABELS": wrong})


# -- baggage ------------------------------------------------------------------------------------------------------

BAGGAGE = TenancyPolicy(sources=[BaggageSource("tenant.id", max_length=128)])


@pytest.mark.parametrize(
    ("values", "due"),
    [
        ([b"a=b, tenant.id=acme;prop=1 ,c=d"], ("acme", "baggage")),
        ([b"a=b", b"tenant.id=acme"], ("acme", "baggage")),
        ([b"tenant.id=acme%20corp"], ("acme corp", "baggage")),
        ([b"tenant.id=acme,tenant.id=globex"], ("default", "rejected:invalid")),
        ([b"tenant.id=a%0d%0ax-admin:1"], ("default", "rejected:invalid")),
        ([b"tenant.id=%ff%fe"], ("default", "rejected:invalid")),
        ([b"tenant.id="], ("default", "rejected:invalid")),
        ([b"tenant.id=__other__"], ("default", "rejected:invalid")),
        ([b"xtenant.id=acme"], ("default", "default")),
        ([b"a=tenant.id"], ("default", "default")),
        ([b"tenant.id=acme," + b"a=" + b"x" * 9_000], ("default", "rejected:invalid")),
        ([b"tenant.id=acme" + b",a=1" * 64], ("default", "rejected:invalid")),
        ([b"a=1"] * 100 + [b"tenant.id=acme"], ("default", "rejected:invalid")),
    ],
)
def test_baggage_names_a_tenant_once_within_its_limits(values, due):
    assert who(BAGGAGE, *((b"baggage", value) for value in values), peer=LOCAL) == due


def test_baggage_of_an_untrusted_peer_is_not_believed_and_not_asked_by_default():
    claim = (b"baggage", b"tenant.id=acme")
    assert who(BAGGAGE, claim) == ("default", "rejected:untrusted")
    assert who(policy_of(load(env={"HOME": "/tmp"})), claim, peer=LOCAL) == ("default", "default")


@given(st.lists(st.tuples(st.sampled_from([b"baggage", b"authorization", b"x-api-key"]), st.binary(max_size=60))))
def test_no_bytes_of_headers_make_it_fail(headers):
    identity = resolve(headers, LOCAL, BAGGAGE)
    assert identity.tenant == "default" or identity.source == "baggage"


# -- tokens -------------------------------------------------------------------------------------------------------


class Issuer:
    """Who signs tokens."""

    def __init__(self, kid="k1"):
        self.kid = kid
        self.key = Ed25519PrivateKey.generate()

    def jwk(self):
        return {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key())), "kid": self.kid, "use": "sig"}

    def sign(self, algorithm="EdDSA", key=None, kid=None, **claims):
        content = {"tenant": "acme", "exp": int(time.time()) + 3_600, "iss": "https://id", "aud": "inference", **claims}
        content = {name: value for name, value in content.items() if value is not None}
        return jwt.encode(content, key or self.key, algorithm, headers={"kid": kid or self.kid})


@pytest.fixture(scope="module")
def issuer():
    return Issuer()


@pytest.fixture
def tokens(tmp_path, issuer):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [issuer.jwk(), {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}]}))
    source = JwtSource(path, claim="tenant", issuer="https://id", audience="inference", max_length=128)
    return TenancyPolicy(sources=[source])


def test_a_claim_of_a_verified_token_names_the_tenant_from_any_peer(tokens, issuer):
    assert who(tokens, bearer(issuer.sign())) == ("acme", "jwt")
    assert who(tokens, bearer(CANARY)) == ("default", "default")


def unsigned(issuer):
    return jwt.encode({"tenant": "acme", "exp": 2**40, "iss": "https://id", "aud": "inference"}, None, "none")


def changed(issuer):
    head, _, mac = issuer.sign().split(".")
    other = issuer.sign(tenant="victim").split(".")[1]
    return f"{head}.{other}.{mac}"


FORGED = {
    "expired": lambda issuer: issuer.sign(exp=int(time.time()) - 3_600),
    "not valid yet": lambda issuer: issuer.sign(nbf=int(time.time()) + 3_600),
    "without an end": lambda issuer: issuer.sign(exp=None),
    "of another issuer": lambda issuer: issuer.sign(iss="https://evil"),
    "for another audience": lambda issuer: issuer.sign(aud="other"),
    "signed with another key": lambda issuer: Issuer().sign(),
    "of an unknown key": lambda issuer: Issuer("k2").sign(),
    "not signed": unsigned,
    "with another content": changed,
    "signed with a shared secret": lambda issuer: issuer.sign("HS256", b"secret" * 8, "shared"),
    "signed with the public key as a secret": lambda issuer: issuer.sign("HS256", issuer.jwk()["x"].encode()),
    "that names nobody": lambda issuer: issuer.sign(tenant=None),
    "that names a list": lambda issuer: issuer.sign(tenant=["acme"]),
    "that names one of costtrace's rows": lambda issuer: issuer.sign(tenant="__other__"),
    "that names a line break": lambda issuer: issuer.sign(tenant="a\r\nb"),
    "that names half of a character": lambda issuer: issuer.sign(tenant="a\ud800"),
    "that is too long": lambda issuer: issuer.sign(pad="x" * 9_000),
    "that is cut": lambda issuer: issuer.sign()[:-5],
    "that is nonsense": lambda issuer: "eyJ.eyJ.x",
    "that never ends": lambda issuer: issuer.sign(exp=float("inf")),
    "that is deeply nested": lambda issuer: f"eyJ{urlsafe_b64encode(b'[' * 6_000).decode()}.eyJ.x",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_token_is_rejected(tokens, issuer, forged):
    assert who(tokens, bearer(forged(issuer))) == ("default", "rejected:token")


@pytest.mark.parametrize("error", [RecursionError, OverflowError, MemoryError, AttributeError])
def test_a_token_on_which_the_parser_fails_is_rejected(tokens, issuer, error, monkeypatch):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(jwt, "decode", fail)  # versions of PyJWT differ in what they catch themselves
    assert who(tokens, bearer(issuer.sign())) == ("default", "rejected:token")


def test_two_tokens_of_two_tenants_are_nobodys(tokens, issuer):
    assert who(tokens, bearer(issuer.sign()), bearer(issuer.sign(tenant="b"))) == ("default", "rejected:token")


def test_a_jwks_without_a_public_key_names_nobody(tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}')
    with pytest.raises(ValueError, match="no public key"):
        JwtSource(path, claim="tenant", issuer="", audience="", max_length=128)


# -- reports ------------------------------------------------------------------------------------------------------

TENANTS = """
tenants:
  - {name: acme, organisation: "=cmd()", team: search, cost_centre: "4711", labels: {environment: production}}
  - {name: blue, organisation: "=cmd()"}
"""


def test_a_report_goes_up_the_hierarchy_and_adds_up(tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "tenants.yaml").write_text(TENANTS)
    monkeypatch.setenv("COSTTRACE_TENANTS", str(tmp_path / "tenants.yaml"))

    def lines(by):
        done = run("report", "--by", by, "--home", str(tmp_path), "--format", "json")
        return json.loads(done.stdout)["summary"]

    def total(rows):
        return sum(row["gpu_ns"] for row in rows if row["kind"] == "request")

    assert {row["organisation"] for row in lines("organisation") if row["kind"] == "request"} == {"=cmd()"}
    assert {row["team"] for row in lines("team,cost_centre") if row["kind"] == "request"} == {"search", ""}
    assert total(lines("organisation")) == total(lines("team")) == total(lines("tenant"))
    assert "\n'=cmd()" in run("report", "--by", "organisation", "--home", str(tmp_path), "--format", "csv").stdout
    assert "environment=production" in run("tenants", "show").stdout


def test_how_requests_were_told_apart_is_counted(tmp_path):
    with closing(Ledger(write(tmp_path))) as ledger:
        ledger.connection.execute("UPDATE usage SET tenant_source = 'rejected:token' WHERE usage_id <= 3")
    rows = json.loads(run("tenants", "claims", "--home", str(tmp_path), "--format", "json").stdout)["claims"]
    assert rows[0]["source"] == "rejected:token"
    assert sum(row["requests"] for row in rows if row["source"] == "rejected:token") == 3
    assert os.environ.get("COSTTRACE_TENANTS") is None
