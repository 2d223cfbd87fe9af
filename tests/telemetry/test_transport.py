"""What a receiver's answers mean, and what counts as an answer."""

import re
import ssl
from types import SimpleNamespace

import pytest
import requests
import urllib3
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from costtrace.core.errors import ConfigError
from costtrace.telemetry import transport
from costtrace.telemetry.otel_environment import GRPC, HTTP, Target
from costtrace.telemetry.transport import (
    Outcome,
    _error_message,
    _grpc_answer,
    _http_answer,
    _Session,
    open_transport,
)


def span(name: str = "costtrace.request") -> ReadableSpan:
    return ReadableSpan(name, SpanContext(1, 1, is_remote=False), start_time=1, end_time=2)


@pytest.fixture(params=[HTTP, GRPC])
def nobody(request, monkeypatch):
    """A transport to a port on which nobody listens."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    opened = open_transport(Target(request.param, "http://127.0.0.1:1"))
    yield opened
    opened.close()


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 429, 502, 503, 504])
def test_a_receiver_that_is_busy_or_set_up_wrongly_is_waited_for(status):
    assert _http_answer(SimpleNamespace(status_code=status, reason="")).outcome is Outcome.AGAIN


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "DELIVERED"), (202, "DELIVERED"), (400, "REFUSED"), (413, "TOO_BIG")]
)
def test_other_statuses_say_what_became_of_the_spans(status, outcome):
    assert _http_answer(SimpleNamespace(status_code=status, reason="", content=b"")).outcome is Outcome[outcome]


@pytest.mark.parametrize(
    ("body", "rejected", "said"),
    [
        (b"", 0, ""),
        (b"OK", 0, ""),
        (b"<html></html>", 0, ""),
        (b"{}", 0, ""),
        (b'{"partialSuccess": 7}', 0, ""),
        (b"{" * 100_000, 0, ""),
        (b'{"partialSuccess": {"rejectedSpans": "40", "errorMessage": "quota"}}', 40, "quota"),
        (b'{"partialSuccess": {"rejectedDataPoints": 3}}', 3, ""),
        (ExportTraceServiceResponse(partial_success={"rejected_spans": 40, "error_message": "quota"}), 40, "quota"),
        (ExportMetricsServiceResponse(partial_success={"rejected_data_points": 30}), 30, ""),
        (ExportTraceServiceResponse(partial_success={"rejected_spans": -1, "error_message": "a\nb"}), 0, r"'a\nb'"),
        (ExportTraceServiceResponse(partial_success={"error_message": "x" * 10_000}), 0, "x" * 300),
    ],
)
def test_an_answer_says_how_much_was_rejected_of_what_was_taken(body, rejected, said):
    body = body if isinstance(body, bytes) else body.SerializeToString()
    answer = _http_answer(SimpleNamespace(status_code=200, reason="", content=body))
    assert answer == (Outcome.DELIVERED, said, rejected)


@pytest.mark.parametrize(
    ("code", "details", "outcome"),
    [
        ("UNAVAILABLE", "", "AGAIN"),
        ("UNAUTHENTICATED", "", "AGAIN"),
        ("INVALID_ARGUMENT", "", "REFUSED"),
        ("RESOURCE_EXHAUSTED", "queue is full", "AGAIN"),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5 vs. 4)", "TOO_BIG"),
    ],
)
def test_grpc_statuses_say_what_became_of_the_spans(code, details, outcome):
    import grpc

    assert _grpc_answer(grpc.StatusCode[code], details).outcome is Outcome[outcome]


def test_an_exporter_that_was_closed_refuses_nothing(nobody):
    nobody.close()
    answer = nobody.send([span()])
    assert (answer.outcome, answer.reason) == (Outcome.AGAIN, "the exporter has sent nothing")


def test_spans_that_cannot_be_encoded_are_refused(nobody):
    answer = nobody.send([span("\ud800")])
    assert answer.outcome is Outcome.UNSENDABLE
    assert answer.reason.startswith("it cannot be encoded")


def test_spans_that_are_too_many_for_the_exporter_itself_are_sent_in_parts(nobody, monkeypatch):
    monkeypatch.setattr(transport, "_MOST_BYTES", 10)
    nobody.close()
    assert nobody.send([span()]).outcome is Outcome.TOO_BIG


@pytest.mark.parametrize(
    ("name", "value"), [("ENDPOINT", "no-scheme"), ("HEADERS", "authorization=a%0Ab"), ("ENDPOINT", "http://[")]
)
def test_a_request_that_cannot_be_made_of_the_settings_is_the_settings_fault(monkeypatch, name, value):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    assert open_transport(Target(HTTP, "")).send([span()]).outcome is Outcome.AGAIN


@pytest.mark.parametrize(
    ("session", "explicit", "used"),
    [
        ("/otel.pem", None, "/otel.pem"),
        ("/otel.pem", "/given.pem", "/given.pem"),
        (True, None, "/corp.pem"),
        (True, True, "/corp.pem"),
    ],
)
def test_opentelemetrys_certificate_comes_before_that_of_requests(monkeypatch, session, explicit, used):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/corp.pem")
    monkeypatch.setenv("CURL_CA_BUNDLE", "/corp.pem")
    opened = _Session()
    opened.verify = session
    assert opened.merge_environment_settings("https://c", {}, None, explicit, None)["verify"] == used


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"),
            r"SSLError: .*CERTIFICATE_VERIFY_FAILED\] self-signed certificate",
        ),
        (ConnectionRefusedError(111, "Connection refused"), r"ConnectionError: \[Errno 111\] Connection refused$"),
        (None, r"OSError: .*invalid path: /no\.pem$"),
    ],
)
def test_an_error_says_why_and_never_the_url(monkeypatch, cause, message):
    def connect(_self):
        raise cause

    if cause is not None:
        monkeypatch.setattr(urllib3.connection.HTTPSConnection, "connect", connect)
    with pytest.raises(OSError) as caught:  # noqa: PT011 requests' errors and the system's
        requests.Session().post(
            "https://user:SECRET@127.0.0.1:1/SECRET?k=SECRET", verify="/no.pem" if not cause else True
        )
    assert "SECRET" not in _error_message(caught.value)
    assert re.match(message, _error_message(caught.value))


class Provider(requests.Session):
    """A session of the user's own, as a credential provider makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.headers["authorization"] = "mine"


@pytest.mark.parametrize(
    ("name", "value", "whose"),
    [
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "mine", Provider),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "mine", Provider),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "", _Session),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_METRICS_CREDENTIAL_PROVIDER", "mine", _Session),
        ("MY_HTTP_CREDENTIAL_PROVIDER", "mine", _Session),
    ],
)
def test_a_receivers_answers_are_seen_whosever_session_it_is(monkeypatch, name, value, whose):
    asked = []

    def send(self, request, **_):
        asked.append((type(self), request.headers.get("authorization")))
        response = requests.Response()
        response.status_code, response.reason, response._content = 400, "no", b""
        return response

    monkeypatch.setattr(requests.Session, "send", send)
    monkeypatch.setattr(
        transport, "entry_points", lambda *, group, name: [SimpleNamespace(load=lambda: Provider)] * (name == "mine")
    )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    answer = open_transport(Target(HTTP, "http://127.0.0.1:1")).send([span()])
    assert answer == (Outcome.REFUSED, "HTTP 400 no", 0)
    assert asked == [(whose, "mine" if whose is Provider else None)]


def test_a_credential_provider_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "nobodys")
    with pytest.raises(ConfigError, match=r"there is no credential provider 'nobodys'"):
        open_transport(Target(HTTP, "http://127.0.0.1:1"))
