"""The routes of vLLM's server that make an engine work: where a tenant is refused, and how requests are told apart."""

WORK = frozenset(
    (
        *("completions", "batch", "chat", "responses", "messages", "generate", "invocations", "realtime"),
        *("systemone", "generative_scoring"),
        *("embeddings", "embed", "pooling", "classify", "score", "rerank"),
        *("transcriptions", "translations", "speech"),
    )
)
"""Last parts of their paths. Health, metrics and lists of models are none; nor is what counts or renders tokens."""
OTHER = "other"


def last_part(path: str) -> str:
    """What a path ends with: the route without its version and prefix."""
    return path.rstrip("/").rpartition("/")[2]


def route_of(path: str) -> str:
    """The route of a request, one of a few names whatever a client asks for; '' where it came by no path."""
    if not path:
        return ""
    name = last_part(path)
    if name == "completions" and path.rstrip("/").endswith("/chat/completions"):
        return "chat/completions"
    return name if name in WORK else OTHER
