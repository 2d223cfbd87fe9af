"""The routes of vLLM's server that make an engine work: where a tenant can be refused, and labels of requests."""

from collections.abc import Mapping
from typing import Any

WORK = frozenset(
    (
        *("completions", "batch", "chat", "responses", "messages", "generate", "invocations", "realtime"),
        *("systemone", "generative_scoring"),
        *("embeddings", "embed", "pooling", "classify", "score", "rerank"),
        *("transcriptions", "translations", "speech"),
    )
)
"""Last parts of their paths. Health, metrics, lists of models, and what only counts or renders tokens are not here."""
OTHER = "other"


def is_engine_work(scope: Mapping[str, Any]) -> bool:
    """Whether the request of an ASGI *scope* is one for an engine to work on."""
    has_input = scope.get("type") == "websocket" or scope.get("method") == "POST"
    return has_input and last_part(str(scope.get("path", ""))) in WORK


def last_part(path: str) -> str:
    """What a path ends with: the route without its version and prefix."""
    return path.rstrip("/").rpartition("/")[2]


def route_of(path: str) -> str:
    """The route of a request, one of a few names whatever a client asks for; '' where it has no path."""
    if not path:
        return ""
    name = last_part(path)
    if name == "completions" and path.rstrip("/").endswith("/chat/completions"):
        return "chat/completions"
    return name if name in WORK else OTHER
