"""Real HTTP traffic from three tenants, and what the server reported of each request. Stdlib only.

`plan` is a pure function of its seed. `send_all` sends the planned requests from several threads and returns one `Sent`
for each, to compare with the ledger. The server's own `usage` is taken from every response: a stream is asked to state
it with each event, so that it is known of an aborted stream too.
"""

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

TENANTS = ("acme", "globex", "initech")
TENANT_HEADER = "x-costtrace-tenant"
WORKLOAD_HEADER = "x-workload"
WORKLOADS = {"acme": "assistant", "globex": "search", "initech": "batch summaries"}
"""The workload label of each tenant's requests, as the demonstration's gateway would set it."""
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TIMEOUT_S = 120.0
SENTENCES = (
    "The quick brown fox jumps over the lazy dog and then it rests in the warm sun for a while.",
    "Every request gets its share of the time, the energy and the money that the machine has used.",
    "The rows add up to the meter, as integers, and what nobody used stands on a row of its own.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
)
SHARED_PREFIX = " ".join(SENTENCES * 3)
"""Longer than a block of the KV cache (128 tokens on the CPU), so that the next request hits the prefix cache."""

Progress = Callable[[int, int, "Sent"], None]
"""Called after each request with how many are done, how many there are, and the one that has just ended."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to send; `label` says what it exercises.

    A stream with `disconnect_after` set is closed by the client once that many pieces have arrived.
    """

    label: str
    endpoint: str
    body: Mapping[str, Any]
    tenant: str | None = None
    traceparent: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    disconnect_after: int | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of one request. Token counts are the server's own; None where it did not state them.

    Of an aborted stream they are what the client had received until it left: the server may have computed more.
    `status` 0: no answer (`error` says why). Times are wall-clock nanoseconds at the client.
    """

    label: str
    endpoint: str
    model: str
    tenant: str | None
    traceparent: str | None
    status: int
    response_id: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reasons: tuple[str, ...]
    started_wall_ns: int
    ended_wall_ns: int
    aborted: bool = False
    error: str | None = None


class _Response:
    """Gathers what a response says about itself, from one object or from the pieces of a stream."""

    def __init__(self) -> None:
        self.response_id: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.reasons: dict[int, str] = {}

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take the id, the usage (the latest counts) and the finish reason of each choice."""
        piece = piece["response"] if isinstance(piece.get("response"), dict) else piece  # the responses API's events
        self.response_id = piece.get("id") or self.response_id
        usage = piece.get("usage") or {}
        if usage:
            self.prompt_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
            self.completion_tokens = usage.get("completion_tokens", usage.get("output_tokens"))
        for choice in piece.get("choices") or ():
            if choice.get("finish_reason"):
                self.reasons[int(choice["index"])] = str(choice["finish_reason"])


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a server-sent event stream."""
    for raw in response:
        line = raw.decode(errors="replace").strip()
        if line.startswith("data:") and line != "data: [DONE]":
            yield json.loads(line[5:])


def _read(response: http.client.HTTPResponse, request: Request, fields: _Response) -> bool:
    """Read a response into `fields`; return whether the client disconnected, as `request` asks."""
    if not request.body.get("stream"):
        fields.add(json.load(response))
        return False
    for count, piece in enumerate(_events(response), start=1):
        fields.add(piece)
        if request.disconnect_after is not None and count >= request.disconnect_after:
            return True
    return False


def send(url: str, request: Request, timeout_s: float = TIMEOUT_S) -> Sent:
    """Send one request and wait for its end. A refused or broken connection is in the result, not raised."""
    address = urlsplit(url)
    headers = {"content-type": "application/json", **request.headers}
    if request.tenant is not None:
        headers[TENANT_HEADER] = request.tenant
        if (workload := WORKLOADS.get(request.tenant)) is not None:
            headers[WORKLOAD_HEADER] = workload
    if request.traceparent is not None:
        headers["traceparent"] = request.traceparent
    fields, status, aborted, error = _Response(), 0, False, None
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    started = time.time_ns()
    try:
        with contextlib.closing(connection):
            connection.request("POST", request.endpoint, json.dumps(request.body), headers)
            with connection.getresponse() as response:
                status = response.status
                if status == http.HTTPStatus.OK:
                    aborted = _read(response, request, fields)
                else:
                    error = response.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Sent(
        label=request.label,
        endpoint=request.endpoint,
        model=str(request.body.get("model")),
        tenant=request.tenant,
        traceparent=request.traceparent,
        status=status,
        response_id=fields.response_id,
        prompt_tokens=fields.prompt_tokens,
        completion_tokens=fields.completion_tokens,
        finish_reasons=tuple(reason for _, reason in sorted(fields.reasons.items())),
        started_wall_ns=started,
        ended_wall_ns=time.time_ns(),
        aborted=aborted,
        error=error,
    )


def send_all(
    url: str,
    requests: Sequence[Request],
    *,
    workers: int = 8,
    timeout_s: float = TIMEOUT_S,
    on_progress: Progress | None = None,
) -> list[Sent]:
    """Send requests in their order, at most `workers` at a time; return the outcomes in the same order."""
    lock, done = threading.Lock(), 0

    def send_one(request: Request) -> Sent:
        nonlocal done
        sent = send(url, request, timeout_s)
        with lock:
            done += 1
            if on_progress is not None:
                on_progress(done, len(requests), sent)
        return sent

    with ThreadPoolExecutor(workers, thread_name_prefix="traffic") as pool:
        return list(pool.map(send_one, requests))


def traceparent(source: random.Random, *, sampled: bool = True) -> str:
    """Return a W3C trace context from a source of random numbers."""
    return f"00-{source.getrandbits(128) | 1:032x}-{source.getrandbits(64) | 1:016x}-{'01' if sampled else '00'}"


def chat(model: str, text: str, tokens: int, **options: object) -> dict[str, Any]:
    """Return the body of a chat request for exactly `tokens` tokens of answer (fewer if a stop string occurs)."""
    return {**_common(model, tokens, options), "messages": [{"role": "user", "content": text}], **options}


def completion(model: str, text: str, tokens: int, **options: object) -> dict[str, Any]:
    """Return the body of a completions request for exactly `tokens` tokens of answer."""
    return {**_common(model, tokens, options), "prompt": text, **options}


def _common(model: str, tokens: int, options: Mapping[str, object]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "max_tokens": tokens, "ignore_eos": True}
    if options.get("stream"):
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return body


def plan(model: str, *, seed: int = 1, rounds: int = 2) -> list[Request]:
    """Return the demo's traffic: `rounds` times thirteen requests, the same for the same seed.

    Tenants differ in what they do: acme chats, globex sends long prompts, initech generates. A few requests come
    without a tenant, some within a trace, one of them not sampled.
    """
    source = random.Random(seed)  # noqa: S311 -- not for secrets: the same seed has to give the same traffic
    requests: list[Request] = []
    for index in range(rounds):
        requests += _round(model, source, index)
    return requests


def _round(model: str, source: random.Random, index: int) -> list[Request]:
    acme, globex, initech = TENANTS

    def text(sentences: int) -> str:
        return " ".join([f"Request {source.randrange(10**6)}.", *source.choices(SENTENCES, k=sentences)])

    def length(around: int) -> int:
        return around + source.randrange(around // 2)

    def question() -> str:
        return f"{SHARED_PREFIX} {text(1)}"

    requests = [
        Request("long prompt", COMPLETIONS, completion(model, text(20), 8), globex),
        Request("short chat", CHAT, chat(model, text(1), length(16)), acme),
        Request("streamed chat", CHAT, chat(model, text(1), length(32), stream=True), acme),
        Request("short completion", COMPLETIONS, completion(model, text(1), length(16)), initech),
        Request("long answer, streamed", COMPLETIONS, completion(model, text(2), length(96), stream=True), initech),
        Request("two answers", CHAT, chat(model, text(1), length(24), n=2, seed=index), acme),
        Request("two answers, streamed", COMPLETIONS, completion(model, text(1), 24, n=2, stream=True), initech),
        Request("shared prefix", CHAT, chat(model, question(), length(16)), acme),
        Request("shared prefix, streamed", CHAT, chat(model, question(), length(16), stream=True), globex),
        Request("stop string", COMPLETIONS, completion(model, text(1), 64, stop=["e", "a", "8"], seed=index), globex),
        Request("client leaves", CHAT, chat(model, text(2), 600, stream=True), initech, disconnect_after=10),
        Request("no tenant", COMPLETIONS, completion(model, text(1), length(16))),
        Request("no tenant, streamed", CHAT, chat(model, text(1), length(16), stream=True)),
    ]
    # Every third request comes within a trace of its caller's; the first of those in each round is not sampled.
    for index_in_round in range(1, len(requests), 3):
        requests[index_in_round] = replace(
            requests[index_in_round], traceparent=traceparent(source, sampled=index_in_round != 1)
        )
    return requests
