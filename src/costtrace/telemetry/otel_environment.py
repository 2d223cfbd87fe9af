"""What OpenTelemetry's variables say: where a signal goes and by what way, why it goes nowhere, and who sends it."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit
from uuid import NAMESPACE_URL, uuid5

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
from requests.utils import should_bypass_proxies

from costtrace.core import semconv
from costtrace.core.errors import ConfigError

GRPC, HTTP = "grpc", "http/protobuf"
_GRPC_PORT = 4317
_PROTOCOLS = {"otlp": "", "otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
"""OpenTelemetry's names for exporters over OTLP, and the protocol of those that have one."""
_OF_GRPC = re.compile(r"(unix|unix-abstract|vsock|dns|ipv4|ipv6|xds):")
"""Addresses in gRPC's own form."""
_FILES = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")


class Target(NamedTuple):
    """The receiver of one signal."""

    protocol: str
    endpoint: str
    """As it was given: the cursor of a receiver is named after it."""

    @property
    def url(self) -> SplitResult:
        """The endpoint in parts; without a scheme where it has none, without a host where the form is gRPC's own."""
        return urlsplit(
            self.endpoint if "//" in self.endpoint or _OF_GRPC.match(self.endpoint) else f"//{self.endpoint}"
        )

    @property
    def address(self) -> str:
        """``host:port`` as far as they are given, without a password."""
        host = self.url.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return f"{host}:{self.url.port}" if self.url.port else host


def off(signal: str, environ: Mapping[str, str] = os.environ) -> str:
    """Why `signal` (``traces`` or ``metrics``) is not sent; "": it is."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "OTEL_SDK_DISABLED is true"
    exporters = _exporters(signal, environ)
    if exporters and not _PROTOCOLS.keys() & exporters:
        return f"OTEL_{signal.upper()}_EXPORTER={','.join(exporters)}"
    return "" if _endpoint(signal, environ) else "no OTEL_EXPORTER_OTLP_ENDPOINT is set"


def target(signal: str, environ: Mapping[str, str] = os.environ) -> Target | None:
    """The receiver of `signal` by the ``OTEL_*`` variables; None: it is not sent.

    Without a protocol, port 4317 means gRPC and any other HTTP, as in the OTLP specification.
    Raises: ConfigError (an unknown protocol, an endpoint that is no URL, a certificate that cannot be read).
    """
    if off(signal, environ):
        return None
    endpoint = environ[_endpoint(signal, environ)]
    name = _name(signal, "PROTOCOL", environ)
    named = [_PROTOCOLS[each] for each in _exporters(signal, environ) if each in _PROTOCOLS]
    protocol = (named[0] if named else "") or environ.get(name, "").strip().lower()
    port = _port(endpoint)
    if not protocol:
        protocol = GRPC if port == _GRPC_PORT else HTTP
    if protocol not in (GRPC, HTTP):
        raise ConfigError(f"{name}={environ[name]!r} is not a protocol that costtrace speaks. Set {GRPC} or {HTTP}.")
    where = Target(protocol, endpoint)
    name, address = _endpoint(signal, environ), where.address or "host:port"
    if protocol == HTTP and where.url.scheme not in ("http", "https"):
        raise ConfigError(
            f"{name} begins with neither http:// nor https://. Write http://{address} (https:// for TLS)."
        )
    if not where.url.hostname and not _OF_GRPC.match(endpoint):
        raise ConfigError(f"{name} names no host. Write it as http://host:port.")
    if protocol == GRPC and (unread := _unread(signal, where, environ)):
        raise ConfigError(unread)  # else gRPC would trust the system's authorities instead, and say nothing
    return where


def tls(signal: str, where: Target, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the exporter will speak TLS to this receiver."""
    scheme = where.url.scheme
    if where.protocol == HTTP or scheme == "https":
        return scheme == "https"
    insecure = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_INSECURE", environ.get("OTEL_EXPORTER_OTLP_INSECURE"))
    return scheme != "http" if insecure is None else insecure.lower() != "true"


def doubt(signal: str, where: Target, environ: Mapping[str, str] = os.environ) -> str:
    """What is probably not meant about a receiver, and what to write; "": nothing."""
    if unread := _unread(signal, where, environ):
        return unread
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")
    if not tls(signal, where, environ) or where.url.scheme == "https" or any(name in environ for name in names):
        return ""
    remedy = f"write http://{where.address} for a port without TLS, https://{where.address} for one with it"
    if where.url.hostname is None:
        remedy = f"set {names[1]}=true for a receiver without TLS, false for one with it"
    return f"{_endpoint(signal, environ)} begins with neither http:// nor https://, so TLS is spoken: {remedy}"


def proxy(where: Target, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """The variable that puts a proxy before a receiver, and the proxy's URL; None: there is none."""
    if where.protocol == HTTP:  # as requests reads them: either case, and an empty lower one switches off the upper
        found = [name if name in environ else name.upper() for name in (f"{where.url.scheme}_proxy", "all_proxy")]
        bypass = environ.get("no_proxy") or environ.get("NO_PROXY")
    else:  # as gRPC does: lower case alone
        found = ["grpc_proxy", "https_proxy", "http_proxy"]
        bypass = environ.get("no_grpc_proxy") or environ.get("no_proxy")
    if should_bypass_proxies(f"http://{where.address}", bypass or ""):
        return None
    return next(((name, environ[name]) for name in found if environ.get(name)), None)


def resource(instance: str, version: str | None = None) -> Resource:
    """The sender: by ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` where set, else ``costtrace``.

    `instance` names the ledger; the service instance is hashed from it. It must stay the same over restarts, as
    counters continue: with the SDK's random one each restart would begin a second set of series.
    """
    detected = Resource.create()
    extra: dict[str, str] = {}
    if SERVICE_INSTANCE_ID not in OTELResourceDetector().detect().attributes:
        extra[SERVICE_INSTANCE_ID] = str(uuid5(NAMESPACE_URL, instance))
    if str(detected.attributes.get(SERVICE_NAME, "")).partition(":")[0] in ("", "unknown_service"):
        extra[SERVICE_NAME] = semconv.DEFAULT_SERVICE
    if version and "service.version" not in detected.attributes:
        extra["service.version"] = version
    return detected.merge(Resource(extra))


def _exporters(signal: str, environ: Mapping[str, str]) -> list[str]:
    named = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").lower().split(",")
    return [each.strip() for each in named if each.strip()]


def _name(signal: str, what: str, environ: Mapping[str, str]) -> str:
    """The variable that counts for a signal: its own where that is set, else the one for all."""
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}"
    return own if environ.get(own) else f"OTEL_EXPORTER_OTLP_{what}"


def _endpoint(signal: str, environ: Mapping[str, str]) -> str:
    """The variable that has the endpoint; "" where none is set."""
    name = _name(signal, "ENDPOINT", environ)
    return name if environ.get(name) else ""


def _unread(signal: str, where: Target, environ: Mapping[str, str]) -> str:
    """Which certificate or key cannot be read; "": none, or none is needed."""
    for name in (_name(signal, what, environ) for what in _FILES) if tls(signal, where, environ) else ():
        if environ.get(name) and not os.access(environ[name], os.R_OK):
            return f"{name}={environ[name]} cannot be read. Name a file that the agent can read."
    return ""


def _port(endpoint: str) -> int | None:
    try:
        return Target(HTTP, endpoint).url.port
    except ValueError as error:
        # The message leaves out the endpoint: it may hold a password.
        raise ConfigError(f"the OTLP endpoint is not a URL: {error}. Write it as http://host:port.") from error
