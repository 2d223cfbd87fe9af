"""The choice of a receiver by OpenTelemetry's variables, the way to it, and the name of the sender."""

import pytest
from opentelemetry.exporter.otlp.proto.grpc import exporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from costtrace.core.errors import ConfigError
from costtrace.telemetry.otel_environment import GRPC, HTTP, Target, doubt, off, proxy, resource, target, tls

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
OVER_GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, Target(HTTP, "http://c:4318")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, Target(GRPC, "http://c:4317")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, Target(GRPC, "c:4317")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp"}, Target(HTTP, "https://c/otlp")),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            Target(GRPC, "http://c:4318"),
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:9/x",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            Target(HTTP, "http://t:9/x"),
        ),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:1"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console"}, None),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console,otlp"},
            Target(HTTP, "http://c:4318"),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "otlp_proto_grpc"},
            Target(GRPC, "http://c:4318"),
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317",
                "OTEL_TRACES_EXPORTER": "console, otlp_proto_http",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            Target(HTTP, "http://c:4317"),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "my_otlp"}, None),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none"},
            Target(HTTP, "http://c:4318"),
        ),
    ],
)
def test_opentelemetrys_variables_say_where_spans_go(environ, expected):
    assert target("traces", environ) == expected


def test_a_protocol_that_nobody_speaks_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL='http/json'.*grpc or http/protobuf"):
        target("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_a_ledger_is_the_same_service_instance_in_every_process_unless_the_user_names_it(monkeypatch):
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    key = "service.instance.id"
    ours = resource("node-7:/var/lib/ledger").attributes[key]
    assert ours == "6d4f9ac0-44d9-54bc-90da-ca2df2b093ab"  # made from the name alone
    assert resource("node-8:/var/lib/ledger").attributes[key] != ours
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{key}=mine")
    assert resource("node-7:/var/lib/ledger").attributes[key] == "mine"


@pytest.mark.parametrize("endpoint", ["c:4318", "me:SECRET@c:4318", "c:4318/otlp", "//c:4318", "grpc://c:4318"])
def test_over_http_an_endpoint_needs_its_scheme_and_the_error_says_what_to_write(endpoint):
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT .*\. Write http://c:4318 \(https:") as caught:
        target("metrics", {ENDPOINT: endpoint})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://:4318", "http:///v1", "http://c:port"])
def test_an_endpoint_that_can_never_be_reached_is_an_error(endpoint):
    with pytest.raises(ConfigError, match=r"Write it as http://host:port"):
        target("traces", {ENDPOINT: endpoint})


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({ENDPOINT: "c:4317"}, "write http://c:4317 for a port without TLS, https://c:4317 for"),
        ({ENDPOINT: "me:SECRET@c:4317"}, "write http://c:4317 for a port without TLS"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "c:4317"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT begins"),
        ({ENDPOINT: "collector", **OVER_GRPC}, "write http://collector for"),
        ({ENDPOINT: "unix:///x", **OVER_GRPC}, "set OTEL_EXPORTER_OTLP_INSECURE=true"),
        ({ENDPOINT: "dns:///c:4317", **OVER_GRPC}, "set OTEL_EXPORTER_OTLP_INSECURE=true"),
        ({ENDPOINT: "c:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, ""),
        ({ENDPOINT: "c:4317", "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "false"}, ""),
        ({ENDPOINT: "http://c:4317"}, ""),
        ({ENDPOINT: "https://c:4317"}, ""),
        ({ENDPOINT: "https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no.pem"}, "CERTIFICATE=/no.pem cannot be read"),
        ({ENDPOINT: "http://c:4318", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no.pem"}, ""),
    ],
)
def test_what_is_probably_not_meant_is_said_with_what_to_write(environ, says):
    unclear = doubt("traces", target("traces", environ), environ)
    assert says in unclear
    assert bool(says) == bool(unclear)
    assert "SECRET" not in unclear


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"])
def test_over_grpc_a_certificate_that_cannot_be_read_is_an_error_and_no_other_authority_is_trusted(name):
    environ = {ENDPOINT: "https://c:4317", name: "/no.pem"}
    with pytest.raises(ConfigError, match=f"{name}=/no.pem cannot be read"):
        target("traces", environ)
    assert target("traces", {**environ, ENDPOINT: "http://c:4317"})  # no TLS is spoken


def exporter_speaks_tls(monkeypatch) -> bool:
    spoken: list[bool] = []
    for name, speaks in (("insecure_channel", False), ("secure_channel", True)):
        opened = getattr(exporter, name)
        monkeypatch.setattr(
            exporter,
            name,
            lambda *args, opened=opened, speaks=speaks, **kw: (spoken.append(speaks), opened(*args, **kw))[1],
        )
    OTLPSpanExporter().shutdown()
    return spoken == [True]


@pytest.mark.parametrize("endpoint", ["c:4317", "http://c:4317", "https://c:4317", "unix:///x"])
@pytest.mark.parametrize("own", [None, "true", "false", ""])
@pytest.mark.parametrize("general", [None, "TRUE", "false", ""])
def test_tls_is_spoken_where_the_exporter_of_opentelemetry_does(monkeypatch, endpoint, own, general):
    environ = {ENDPOINT: endpoint, **OVER_GRPC}
    environ.update({"OTEL_EXPORTER_OTLP_TRACES_INSECURE": own} if own is not None else {})
    environ.update({"OTEL_EXPORTER_OTLP_INSECURE": general} if general is not None else {})
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    where = target("traces", environ)
    assert tls("traces", where, environ) == exporter_speaks_tls(monkeypatch)


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, "no OTEL_EXPORTER_OTLP_ENDPOINT is set"),
        ({ENDPOINT: "http://c", "OTEL_SDK_DISABLED": " True "}, "OTEL_SDK_DISABLED is true"),
        ({ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"}, "OTEL_TRACES_EXPORTER=none"),
        ({ENDPOINT: "http://c"}, ""),
    ],
)
def test_why_a_signal_is_not_sent(environ, why):
    assert off("traces", environ) == why


@pytest.mark.parametrize(
    ("endpoint", "environ", "name"),
    [
        ("http://c:4318", {"HTTP_PROXY": "http://p"}, "HTTP_PROXY"),
        ("http://c:4318", {"HTTP_PROXY": "http://p", "http_proxy": "http://q"}, "http_proxy"),
        ("http://c:4318", {"HTTP_PROXY": "http://p", "http_proxy": ""}, None),
        ("http://c:4318", {"https_proxy": "http://p"}, None),
        ("https://c:4318", {"https_proxy": "http://p"}, "https_proxy"),
        ("http://c:4318", {"ALL_PROXY": "http://p"}, "ALL_PROXY"),
        ("http://127.0.0.1:4318", {"HTTP_PROXY": "http://p"}, "HTTP_PROXY"),
        ("http://127.0.0.1:4318", {"HTTP_PROXY": "http://p", "NO_PROXY": "localhost,127.0.0.1"}, None),
        ("http://c.inside:4318", {"HTTP_PROXY": "http://p", "NO_PROXY": ".inside"}, None),
        ("http://c:4318", {"HTTP_PROXY": "http://p", "NO_PROXY": "*"}, None),
        ("http://c:4317", {"HTTP_PROXY": "http://p"}, None),
        ("http://c:4317", {"http_proxy": "http://p"}, "http_proxy"),
        ("http://c:4317", {"http_proxy": "http://p", "no_grpc_proxy": "c"}, None),
    ],
)
def test_a_proxy_on_the_way_is_found_where_the_exporters_libraries_look(monkeypatch, endpoint, environ, name):
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    found = proxy(target("traces", {ENDPOINT: endpoint}), environ)
    assert (found and found[0]) == name


@pytest.mark.parametrize(
    ("variables", "instance", "name"),
    [
        ("my.service.instance.id=3", None, "costtrace"),
        ("service.instance.id =mine", "mine", "costtrace"),
        ("service.instance.id=mine,service.name=billing", "mine", "billing"),
        ("service.name=unknown_service_mesh", None, "unknown_service_mesh"),
        ("service.name=unknown_service:python", None, "costtrace"),
        ("x.service.name=billing", None, "costtrace"),
    ],
)
def test_attributes_of_the_sender_are_found_by_their_whole_name(monkeypatch, variables, instance, name):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", variables)
    found = resource("node-7:/var/lib/ledger").attributes
    assert found["service.instance.id"] == (instance or "6d4f9ac0-44d9-54bc-90da-ca2df2b093ab")
    assert found["service.name"] == name
