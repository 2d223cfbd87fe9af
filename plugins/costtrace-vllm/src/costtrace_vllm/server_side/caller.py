"""Who asks: a client's request as it reached the HTTP server, and the variable by which hooks further in find it."""

import secrets
import time
from contextvars import ContextVar
from typing import Any

from costtrace.capture.asgi import headers_of, peer_of
from costtrace.capture.node_files.cost_estimates import Estimate
from costtrace.capture.request_context import traceparent_of
from costtrace.capture.tenancy.identity import Identity, resolve
from costtrace.core.client_text import short
from costtrace.core.events import COUNTED_PROMPT, COUNTED_REQUEST
from costtrace_vllm.process import process
from costtrace_vllm.server_side.routes import route_of

SCOPE_KEY = "costtrace"
"""Where the caller is kept in the ASGI scope of its request."""


class Caller:
    """One request of a client. Only its time of arrival is taken at once; the rest is worked out on first use."""

    estimate: Estimate | None = None
    """What the answer has probably cost, once it has been made."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.arrived_ns = time.monotonic_ns()
        self.key = ""
        self.identity: Identity | None = None
        """Tenant, user and labels; None until `resolve`."""
        self.traceparent = ""
        self._firsts: dict[str, str] = {}

    def elsewhere(self, prompt_key: str, sequence: str) -> int:
        """What of an engine's *sequence* is counted with another one of this request (`SequenceAdded.elsewhere`).

        The server's first sequence counts the request, and the first of each prompt the prompt: engines share them out.
        """
        if self.scope["type"] == "websocket":
            return 0  # a connection may ask for many things, one after the other
        first = self._firsts.setdefault(prompt_key, sequence)
        is_first = next(iter(self._firsts.values())) == sequence
        return (0 if is_first else COUNTED_REQUEST) | (0 if first == sequence else COUNTED_PROMPT)

    def resolve(self, adapter: str = "") -> Identity:
        """Work out the identity: once, when the request has passed authentication and goes to an engine.

        *adapter* is the name of the LoRA adapter that the request asks for, or ''.
        """
        headers = headers_of(self.scope)
        identity = resolve(headers, peer_of(self.scope), process.tenancy, model=adapter)
        label, route = process.settings.route_label, route_of(self.path)
        if label and route:
            identity = identity._replace(labels={**identity.labels, label: route})
        self.identity = identity
        self.traceparent = traceparent_of(headers)
        self.key = secrets.token_hex(8)
        return identity

    @property
    def path(self) -> str:
        """Path of the request's URL."""
        return str(self.scope.get("path", ""))

    def response_id(self) -> str:
        """The ``id`` of the response; '' until the server has chosen it (vLLM keeps it for its own middlewares)."""
        metadata = (self.scope.get("state") or {}).get("request_metadata")
        return str(getattr(metadata, "request_id", "") or "")

    def ledger_id(self) -> str:
        """An id by which the ledger finds the request: the response's, else the request's key; '' if there is none."""
        return short(self.response_id()) or self.key


current_caller: ContextVar[Caller | None] = ContextVar("costtrace_caller", default=None)
"""The request that this task works on."""
