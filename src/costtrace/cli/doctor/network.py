"""Whether the receiver of spans and metrics can be reached, and whose the Prometheus port is.

Nothing is sent to a receiver: a connection is opened and closed, after a TLS handshake where TLS will be spoken.
"""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from costtrace.capture.node_files.agent_lock import running
from costtrace.cli.doctor.findings import FAIL, OK, WARN, Finding
from costtrace.config.settings import Settings
from costtrace.core.errors import ConfigError

if TYPE_CHECKING:  # an engine's environment may lack the exporters
    from costtrace.telemetry.otel_environment import Target

TIMEOUT_S = 1.0
TLS_TIMEOUT_S = 3.0
_ENABLE = "Unset OTEL_SDK_DISABLED where the agent runs, unless that is meant."


def collector(env: Mapping[str, str]) -> Iterator[Finding]:
    """Check for each signal that somebody listens where it goes."""
    try:
        from costtrace.telemetry import otel_environment as otel  # noqa: PLC0415 - an engine's may lack the exporters
    except ImportError as error:
        yield Finding(
            "collector",
            WARN,
            f"OTLP cannot be sent from this environment: {error.name} is not installed",
            "Where the agent runs, in a checkout of costtrace: pip install '.[agent]'",
        )
        return
    for signal in ("traces", "metrics"):
        try:
            where = otel.target(signal, env)
        except ConfigError as error:
            yield Finding("collector", FAIL, f"{signal}: {error}", "Correct the OTEL_* variable that it names.")
            continue
        if where is None:
            why = f"{signal} are not sent: {otel.off(signal, env)}"
            disabled = not otel.off(signal, {**env, "OTEL_SDK_DISABLED": ""})
            yield Finding("collector", WARN, why, _ENABLE) if disabled else Finding("collector", OK, why)
            continue
        if doubt := otel.doubt(signal, where, env):
            yield Finding("collector", WARN, f"{signal}: {doubt}", "As the message says.")
        if where.url.hostname is None:
            yield Finding("collector", OK, f"{signal} go to an address in gRPC's own form, which is not looked at")
        else:
            yield _reach(signal, where, otel.proxy(where, env), tls=otel.tls(signal, where, env))


def prometheus(settings: Settings) -> Iterator[Finding]:
    """Say who listens on the Prometheus port."""
    host, port = settings.prometheus_host, settings.prometheus_port
    if port == 0:
        yield Finding("prometheus", OK, "the endpoint is switched off (COSTTRACE_PROMETHEUS_PORT=0)")
        return
    where = f"http://{host}:{port}/metrics"
    agent = _agent_runs(settings)
    answer = _scrape(host, port)
    if answer is None and agent:
        yield Finding(
            "prometheus",
            WARN,
            f"an agent runs, but nothing listens on {where}",
            "The agent may have other settings, or the port was taken when it began: see its log.",
        )
    elif answer is None:
        yield Finding("prometheus", OK, f"{where} is free; the agent will listen there")
    elif re.search(r"^(# HELP )?costtrace_", answer, re.MULTILINE):
        whose = "the agent" if agent else "an agent of another home"
        yield Finding(
            "prometheus", OK if agent else WARN, f"{whose} answers on {where}", "" if agent else _ANOTHER_PORT
        )
    else:
        yield Finding("prometheus", FAIL, f"something that is not costtrace listens on {where}", _ANOTHER_PORT)


_ANOTHER_PORT = "Set COSTTRACE_PROMETHEUS_PORT to a free port, or to 0 for none."


def _reach(signal: str, where: "Target", proxy: tuple[str, str] | None, *, tls: bool) -> Finding:
    host = where.url.hostname or ""
    port = where.url.port or (80 if where.protocol != "grpc" and not tls else 443)
    scheme = f"{where.url.scheme}://" if where.url.scheme else ""
    message = f"{signal} go to {scheme}{host}:{port} ({where.protocol})"
    remedy = "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT."
    if proxy is not None:
        name, url = proxy
        parts = urlsplit(url if "//" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        message += f" through the proxy that {name} names, {host}:{port}"
        remedy = f"Where the collector is inside: {'NO_PROXY' if name.isupper() else 'no_proxy'}={where.url.hostname}"
    try:
        connection = socket.create_connection((host, port), TIMEOUT_S)
    except OSError as error:
        nobody = f"{message}: nobody answers there ({error.strerror or error})"
        return Finding("collector", WARN, f"{nobody}. Nothing is lost: what is not sent waits in the ledger", remedy)
    with connection:
        if proxy is not None:
            beyond = "whether it reaches the collector is not seen from here"
            return Finding("collector", WARN, f"{message}: somebody listens there; {beyond}", remedy)
        if tls and not _speaks_tls(connection, host):
            plain = f"Write http://{host}:{port} as the endpoint, without ..._INSECURE=false, or have it speak TLS."
            return Finding("collector", FAIL, f"{message}: somebody listens, but does not speak TLS", plain)
    return Finding("collector", OK, f"{message}: somebody listens")


def _speaks_tls(connection: socket.socket, host: str) -> bool:
    """Shake hands, whosever the certificate is. A receiver that asks for ours, or refuses us, speaks TLS too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    connection.settimeout(TLS_TIMEOUT_S)
    try:
        context.wrap_socket(connection, server_hostname=host).close()
    except (OSError, ValueError) as error:
        return "ALERT" in str(getattr(error, "reason", ""))
    return True


def _scrape(host: str, port: int) -> str | None:
    """Return the beginning of the metrics page, '' for any other answer, None where nobody listens."""
    # An endpoint that listens on all addresses also answers on the loopback address.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison, no binding
    connection = http.client.HTTPConnection(reachable, port, timeout=TIMEOUT_S)
    try:
        connection.connect()
    except OSError:
        return None
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read(1 << 20).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _agent_runs(settings: Settings) -> bool:
    try:
        return running(settings.home)
    except OSError:
        return False
