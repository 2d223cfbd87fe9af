"""Whether the receiver of spans and metrics can be reached, and whose the Prometheus port is.

Nothing is sent to a receiver: a connection is opened and closed.
"""

import http.client
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from costtrace.capture.node_files.agent_lock import running
from costtrace.cli.doctor.findings import FAIL, OK, WARN, Finding
from costtrace.config.settings import Settings
from costtrace.core.errors import ConfigError

TIMEOUT_S = 1.0


def collector(env: Mapping[str, str]) -> Iterator[Finding]:
    """Check for each signal that somebody listens where it goes."""
    try:
        from costtrace.telemetry.transport import target  # noqa: PLC0415 - an engine's environment may lack the exporters
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
            where = target(signal, env)
        except ConfigError as error:
            yield Finding("collector", FAIL, f"{signal}: {error}", "Correct the OTEL_* variable that it names.")
            continue
        if where is None:
            yield Finding("collector", OK, f"{signal} are not sent: no OTEL_EXPORTER_OTLP_ENDPOINT is set")
        else:
            yield _reach(signal, where.protocol, where.endpoint)


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
    elif "costtrace_" in answer:
        whose = "the agent" if agent else "an agent of another home"
        yield Finding(
            "prometheus", OK if agent else WARN, f"{whose} answers on {where}", "" if agent else _ANOTHER_PORT
        )
    else:
        yield Finding("prometheus", FAIL, f"something that is not costtrace listens on {where}", _ANOTHER_PORT)


_ANOTHER_PORT = "Set COSTTRACE_PROMETHEUS_PORT to a free port, or to 0 for none."


def _reach(signal: str, protocol: str, endpoint: str) -> Finding:
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    host = parts.hostname
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4317)
    message = f"{signal} go to {parts.scheme + '://' if parts.scheme else ''}{host}:{port} ({protocol})"
    if host is None:
        return Finding("collector", FAIL, f"{signal}: {endpoint!r} names no host", "Write it as http://host:port.")
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except OSError as error:
        return Finding(
            "collector",
            WARN,
            f"{message}: nobody answers there ({error.strerror or error}). Nothing is lost: what is not sent "
            "waits in the ledger",
            "Start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT.",
        )
    return Finding("collector", OK, f"{message}: somebody listens")


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
