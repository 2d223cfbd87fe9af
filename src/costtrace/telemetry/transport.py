"""The official OTLP exporters, and the outcome of each export.

The exporters return success or failure only. Whether to repeat, to make the batch smaller or to leave a record out
depends on the receiver's status, so it is read from a `requests.Session` of ours (HTTP) or a wrapped stub (gRPC). A
failure without an answer is one to repeat, unless the spans cannot be encoded: a closed exporter fails so too.
"""

import json
import os
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

import grpc  # type: ignore[import-untyped]  # it brings no types
import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from costtrace.core.errors import ConfigError
from costtrace.telemetry.otel_environment import HTTP, Target


class Outcome(Enum):
    """The outcome of an export."""

    DELIVERED = "delivered"
    AGAIN = "again"
    """The receiver is not there, is busy, or is set up to take nothing from us: repeat until that changes."""
    TOO_BIG = "too big"
    REFUSED = "refused"
    """The receiver says that it will not take this content. It says so too in some outages."""
    UNSENDABLE = "unsendable"
    """It cannot be encoded."""


class Answer(NamedTuple):
    """The outcome of an export, and its reason in words, which may be the receiver's."""

    outcome: Outcome
    reason: str = ""
    rejected: int = 0
    """Spans, or data points, that a receiver has rejected of what it took: they must not be sent again."""


class Transport(Protocol):
    """Sends spans to one receiver."""

    def send(self, spans: Sequence[ReadableSpan]) -> Answer:
        """Send *spans*; never raises."""

    def close(self) -> None:
        """Abort an export that is under way, and close the connection."""


def open_transport(where: Target) -> Transport:
    """Open the transport of spans to a receiver. ``OTEL_*`` variables set headers, TLS, timeout and compression."""
    return _Spans(where)


def watched(
    signal: str,
    where: Target,
    over_http: Callable[..., Any],
    over_grpc: Callable[[], Any],
    on_answer: Callable[[Answer], None],
) -> Any:  # noqa: ANN401 an exporter of either signal
    """An exporter for a receiver, of one of two classes, that passes on each answer of the receiver."""
    if where.protocol == HTTP:
        names = [f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{each}CREDENTIAL_PROVIDER" for each in ("", f"{signal.upper()}_")]
        provider = next(filter(None, map(os.environ.get, names)), None)
        if provider is None:
            return over_http(session=_watch(_Session(), on_answer))
        for entry in entry_points(group="opentelemetry_otlp_credential_provider", name=provider):
            return over_http(session=_watch(entry.load()(), on_answer))
        raise ConfigError(f"{names[0]}, or that of {signal}: there is no credential provider {provider!r}. Install it.")
    exporter = over_grpc()
    try:
        make, channel = exporter._stub, exporter._channel  # noqa: SLF001 there is no other way to learn a status
    except AttributeError:
        return exporter
    exporter._stub = lambda channel: _Stub(make(channel), on_answer)  # noqa: SLF001 it reconnects through this
    exporter._client = exporter._stub(channel)  # noqa: SLF001 its first connection
    return exporter


class _Spans:
    """An exporter of spans, and the last answer of its receiver."""

    def __init__(self, where: Target) -> None:
        self._last: Answer | None = None
        self._exporter = watched("traces", where, HttpSpanExporter, GrpcSpanExporter, self._keep)

    def send(self, spans: Sequence[ReadableSpan]) -> Answer:
        self._last = None
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 whatever it is, the shipper goes on
            return self._last or _unsent(spans, type(error).__name__)
        if self._last is not None:
            return self._last
        if result is SpanExportResult.SUCCESS:
            return Answer(Outcome.DELIVERED)
        return _unsent(spans, "the exporter has sent nothing")

    def _keep(self, answer: Answer) -> None:
        self._last = answer

    def close(self) -> None:
        self._exporter.shutdown()


_MOST_BYTES = 64 << 20
"""The exporters send no request that is larger, before compression."""


def _unsent(spans: Sequence[ReadableSpan], why: str) -> Answer:
    """The answer to an export that no receiver has answered: it is the content's fault only where that shows."""
    try:
        size_bytes = encode_spans(spans).ByteSize()
    except Exception as error:  # noqa: BLE001 whatever it is, the next try would meet it again
        return Answer(Outcome.UNSENDABLE, f"it cannot be encoded: {error!r}")
    return Answer(Outcome.TOO_BIG if size_bytes > _MOST_BYTES else Outcome.AGAIN, why)


_LONGEST_REMARK = 300


def _taken(body: bytes) -> Answer:
    """The answer of a receiver that has taken a request, of spans or of metrics: both have one form on the wire."""
    found = ExportTracePartialSuccess()
    try:
        if body[:1] == b"{":  # some answer in JSON, whatever they were asked in
            of = json.loads(body).get("partialSuccess") or {}
            found.rejected_spans = int(of.get("rejectedSpans") or of.get("rejectedDataPoints") or 0)
            found.error_message = of.get("errorMessage") or ""
        else:
            found = ExportTraceServiceResponse.FromString(body).partial_success
    except (DecodeError, ValueError, TypeError, AttributeError, RecursionError):
        pass  # no answer in OTLP; the status says that it was taken
    said = found.error_message[:_LONGEST_REMARK]
    return Answer(Outcome.DELIVERED, said if said.isprintable() else ascii(said), max(0, found.rejected_spans))


def remark(of: str, rejected: int, said: str) -> str:
    """A message to an operator about what a receiver has not taken whole; "" where it has."""
    if rejected:
        why = said or "no reason given"
        return (
            f"the receiver rejected {rejected} {of} that it took: {why}. They are not sent again; the ledger has them."
        )
    return f"the receiver warns: {said}" if said else ""


_HTTP_REFUSED = frozenset((400, 422, 500))
_HTTP_TOO_BIG = frozenset((413,))


def _watch(session: requests.Session, on_answer: Callable[[Answer], None]) -> requests.Session:
    """Have a session pass on the answer to each request."""
    ask = session.request

    def request(*args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401 as requests has it
        kwargs["allow_redirects"] = False  # a redirected POST arrives as a GET, without its body
        try:
            response = ask(*args, **kwargs)
        except Exception as error:
            on_answer(Answer(Outcome.AGAIN, _error_message(error)))
            raise
        on_answer(_http_answer(response))
        return response

    session.request = request  # type: ignore[method-assign]  # whosever class it is
    return session


class _Session(requests.Session):
    """A session to which OpenTelemetry's variables come first."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        if "authorization" in {name.lower() for name in (*self.headers, *(request.headers or ()))}:
            request.auth = lambda prepared: prepared  # else requests takes that of ~/.netrc instead
        return super().prepare_request(request)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:  # noqa: ANN401 as requests has it
        # requests asks REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE before the session's own certificate.
        return super().merge_environment_settings(url, proxies, stream, verify or self.verify, cert)


def _error_message(error: BaseException) -> str:
    """An error's class and the system's own message, never a library's: the URL in that may hold a key."""
    system, cause = "", error
    for _ in range(20):
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            system = f": {cause}"
        within = [each for each in (*cause.args, getattr(cause, "reason", None)) if isinstance(each, BaseException)]
        following = within[0] if within else cause.__cause__ or cause.__context__
        if following is None:
            break
        cause = following
    return f"{type(error).__name__}{system}{_no_tls(system)}"


def _no_tls(message: str) -> str:
    return " (this port speaks no TLS: write http://host:port as OTLP's endpoint)" if _SPEAKS_NO_TLS in message else ""


_SPEAKS_NO_TLS = "WRONG_VERSION_NUMBER"
"""How OpenSSL says that the other side does not speak TLS."""


def _http_answer(response: requests.Response) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        return _taken(response.content)
    reason = f"HTTP {status} {response.reason}"
    if status in _HTTP_TOO_BIG:
        return Answer(Outcome.TOO_BIG, reason)
    return Answer(Outcome.REFUSED if status in _HTTP_REFUSED else Outcome.AGAIN, reason)


_GRPC_REFUSED = frozenset((grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN))


def _grpc_answer(code: grpc.StatusCode, details: str) -> Answer:
    outcome = Outcome.REFUSED if code in _GRPC_REFUSED else Outcome.AGAIN
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        outcome = Outcome.TOO_BIG  # without that text the receiver is only busy
    return Answer(outcome, f"gRPC {code.name}: {details}{_no_tls(details)}")


class _Stub:
    """A service stub that passes on the answer to each call."""

    def __init__(self, stub: Any, on_answer: Callable[[Answer], None]) -> None:  # noqa: ANN401 generated, untyped
        self._stub = stub
        self._on_answer = on_answer

    def Export(self, request: object, **kwargs: object) -> Any:  # noqa: ANN401, N802 the stub's own name
        try:
            answer = self._stub.Export(request, **kwargs)
        except grpc.RpcError as error:
            self._on_answer(_grpc_answer(error.code(), error.details() or ""))
            raise
        self._on_answer(_taken(answer.SerializeToString()))
        return answer
