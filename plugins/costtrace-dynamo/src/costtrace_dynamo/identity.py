"""Whose request it is, and which part of it: the context for the engine, from what Dynamo hands a worker. Pure.

Dynamo's frontend gives a request one id and hands it to every worker that works on the request: the id joins the parts.
A worker cannot see who connected to the frontend and named the tenant. So each channel is trusted or not as a whole
(setting `dynamo_tenant`), and the gateway in front of Dynamo has to strip what it does not set itself (docs/dynamo.md).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from costtrace_vllm.request_context import RequestContext

from costtrace.capture.request_context import dynamo_key, valid_traceparent
from costtrace.capture.tenancy.identity import INVALID
from costtrace.config.tenant_names import tenant_name
from costtrace.core.client_text import short
from costtrace.core.events import COUNTED_PROMPT, HANDS_OVER

SALT_PREFIX = "dynamo-cache-salt:"
"""Dynamo's vLLM worker puts it before the cache salt that its engine gets. The request has the salt without it."""
METADATA, ANNOTATION, SALT = "metadata", "annotation", "cache_salt"
NO_CLAIM = "default"
"""Source of the tenant of a request that names none."""


def tenant_of(channels: Iterable[str], metadata: Mapping[str, Any], request: Mapping[str, Any]) -> tuple[str, str]:
    """Tenant and its source, by the first of *channels* that names one; tenant '' where none does.

    A name that cannot be a tenant's is rejected, and no later channel is asked: a tenant was meant to be named.
    """
    for channel in channels:
        kind, _, key = channel.partition(":")
        claim = _claim(kind, key, metadata, request)
        if not claim:
            continue
        name = tenant_name(claim.encode("utf-8", "replace"))
        return ("", INVALID) if name is None else (name, channel)
    return "", NO_CLAIM


def _claim(kind: str, key: str, metadata: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    if kind == METADATA:
        return _text(metadata.get(key))
    if kind == SALT:
        routing = request.get("routing")
        salt = routing.get("cache_salt") if isinstance(routing, Mapping) else None
        return _text(salt).removeprefix(SALT_PREFIX)
    annotations = request.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        name, colon, value = _text(annotation).partition(":")
        if colon and name == key:
            return value
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def traceparent_of(headers: Mapping[str, Any] | None) -> str:
    """The W3C traceparent among the trace headers of a request; '' where there is none, or none that is valid."""
    return valid_traceparent((headers or {}).get("traceparent"))


def request_context(
    request_id: str,
    role: str,
    tenant: tuple[str, str],
    default_tenant: str,
    *,
    traceparent: str = "",
    arrived_ns: int = 0,
    boot: str = "",
    prefilled: bool = False,
) -> RequestContext:
    """The context of a request's part, for its engine. *tenant*: as `tenant_of` returns it.

    *prefilled*: another worker has computed the prompt.
    """
    name, source = tenant
    request_id = short(request_id)
    key, elsewhere = dynamo_key(request_id)
    return RequestContext(
        request_key=key,
        request_id=request_id,
        prompt_key="",
        operation="",
        tenant=name or default_tenant,
        tenant_source=source,
        traceparent=traceparent,
        arrived_ns=arrived_ns,
        boot=boot,
        role=role,
        elsewhere=elsewhere | (HANDS_OVER if role == "prefill" else COUNTED_PROMPT if prefilled else 0),
    )
