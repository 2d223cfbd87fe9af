"""Where the demo's spans go: to its own sink, to a receiver that the user has named, or nowhere."""

import os
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from costtrace.telemetry.otel_environment import Target, target
from costtrace.telemetry.span_shipper import consumer

_NAMED_BY = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def sink_variables(endpoint: str, environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """What sends spans to the demo's sink at *endpoint* (None: unset); nothing where the user has named a receiver."""
    if any(environ.get(name) for name in _NAMED_BY):
        return {}
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": None,
    }


def destination(changes: Mapping[str, str | None], environ: Mapping[str, str] = os.environ) -> Target | None:
    """The receiver of spans in *environ* with *changes*; None: they are switched off. Raises: ConfigError."""
    merged = {**environ, **changes}
    return target("traces", {name: value for name, value in merged.items() if value is not None})


def passed_on(where: Target, query: Callable[[str], list[tuple[int, ...]]]) -> tuple[int, int]:
    """Records that the agent has passed on to *where*, and all that it has booked; *query* asks its ledger."""
    upto = f"SELECT max(usage_id) FROM cursor WHERE consumer = '{consumer(where)}'"  # noqa: S608 - a digest
    ((passed,),) = query(f"SELECT count(*) FROM usage WHERE usage_id <= ({upto})") or [(0,)]  # noqa: S608
    ((booked,),) = query("SELECT count(*) FROM usage") or [(0,)]
    return passed, booked


def spans_line(where: Target | None, sink: tuple[str, str, int], counted: tuple[int, int]) -> str:
    """Where the spans went, for people.

    *sink*: its endpoint, its file and how many spans it has; *counted*: see `passed_on`.
    """
    endpoint, path, spans = sink
    if where is None:
        return "none are sent: OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER switches them off"
    if where.endpoint == endpoint:
        return f"{path}   ({spans} spans, received by OTLP)"
    parts = urlsplit(where.endpoint if "//" in where.endpoint else f"//{where.endpoint}")
    host = parts.netloc.rpartition("@")[2]  # without a password
    name = f"{parts.scheme}://{host}" if parts.scheme else host
    passed, booked = counted
    see = "" if passed == booked else "; agent.log may say why not all"
    return f"sent to {name}, which you have named: {passed} of {booked} requests{see}. None are kept here."
