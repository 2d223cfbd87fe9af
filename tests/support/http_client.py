"""An HTTP client for tests of the server: it sends any headers, and keeps what the server said."""

import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TENANT = "x-costtrace-tenant"


@dataclass(frozen=True)
class Ask:
    """One request, and when its client hangs up: after so many pieces of a stream, or so many seconds."""

    path: str
    body: Mapping[str, Any]
    headers: Sequence[tuple[str, str | bytes]] = ()
    hang_up_after: int | None = None
    hang_up_s: float | None = None


@dataclass
class Reply:
    """What the server said. `usage` is the last one it stated."""

    status: int = 0
    text: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    hung_up: bool = False
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    """By name in lower case."""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON objects of the answer, one or the pieces of a stream."""
        return [event.get("response") or event.get("message") or event for event in self.events]

    @property
    def id(self) -> str:
        return next((str(body["id"]) for body in self.bodies if body.get("id")), "")

    @property
    def usage(self) -> dict[str, Any]:
        usage: dict[str, Any] = {}
        for event, body in zip(self.events, self.bodies, strict=True):
            usage |= body.get("usage") or {}
            usage |= event.get("usage") or {}
        return usage

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens by the server's own count."""
        usage = self.usage
        given = usage.get("prompt_tokens", usage.get("input_tokens", 0))
        return given, usage.get("completion_tokens", usage.get("output_tokens", 0)) or 0

    @property
    def cached(self) -> int:
        usage = self.usage
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)

    @property
    def reasons(self) -> list[str]:
        """Finish reason of each choice, in order."""
        reasons = {
            int(choice["index"]): str(choice["finish_reason"])
            for body in self.bodies
            for choice in body.get("choices") or ()
            if choice.get("finish_reason")
        }
        return [reasons[index] for index in sorted(reasons)]


def ask(url: str, wanted: Ask, timeout_s: float = 120, into: Reply | None = None) -> Reply:
    """Send one request with exactly these headers, also such as a decent client would not send."""
    address, reply = urlsplit(url), into or Reply()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        with closing(connection):
            content = json.dumps(wanted.body).encode()
            connection.putrequest("POST", wanted.path)
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", str(len(content)))
            for name, value in wanted.headers:
                connection.putheader(name, value)
            connection.endheaders(content)
            if wanted.hang_up_s is not None:
                time.sleep(wanted.hang_up_s)
                reply.hung_up = True
                return reply
            with connection.getresponse() as response:
                reply.status = response.status
                reply.headers = {name.lower(): value for name, value in response.getheaders()}
                _read(response, wanted, reply)
    except (OSError, http.client.HTTPException) as error:
        reply.error = f"{type(error).__name__}: {error}"
    return reply


def _read(response: http.client.HTTPResponse, wanted: Ask, reply: Reply) -> None:
    if "text/event-stream" not in (response.getheader("content-type") or ""):
        reply.text = response.read().decode(errors="replace")
        with suppress(ValueError):
            body = json.loads(reply.text)
            reply.events = [body] if isinstance(body, dict) else []
        return
    for raw in response:
        line = raw.decode(errors="replace").strip()
        if not line.startswith("data:") or line == "data: [DONE]":
            continue
        reply.events.append(json.loads(line[5:]))
        if wanted.hang_up_after is not None and len(reply.events) >= wanted.hang_up_after:
            reply.hung_up = True
            return


class Stream(threading.Thread):
    """A client that reads a streamed answer; `reply` grows while it does."""

    def __init__(self, url: str, what: Ask) -> None:
        super().__init__(daemon=True)
        self.url, self.what, self.reply = url, what, Reply()
        self.start()

    def run(self) -> None:
        ask(self.url, self.what, 300, self.reply)

    def has(self, pieces: int) -> bool:
        return len(self.reply.events) >= pieces


def ask_all(url: str, asks: Sequence[Ask], workers: int = 8) -> list[Reply]:
    """Send many, at most *workers* at a time; replies in their order."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda one: ask(url, one), asks))


def body(tokens: int = 8, **more: Any) -> dict[str, Any]:
    """A body for exactly *tokens* tokens of answer, the same ones every time."""
    made: dict[str, Any] = {"model": "tiny-model", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    if more.get("stream"):
        made["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return {**made, **more}


def chat(text: str = "Hello there", tokens: int = 8, **more: Any) -> dict[str, Any]:
    return body(tokens, messages=[{"role": "user", "content": text}], **more)


def completion(text: Any = "Hello there", tokens: int = 8, **more: Any) -> dict[str, Any]:
    return body(tokens, prompt=text, **more)


def tenant(name: str | bytes) -> tuple[str, str | bytes]:
    return TENANT, name


class Traffic:
    """Clients that go on asking until stopped; `replies` is what they were answered."""

    def __init__(self, url: str, *, workers: int = 3, tokens: int = 24) -> None:
        self.replies: list[Reply] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(url, n, tokens)) for n in range(workers)]

    def _go(self, url: str, number: int, tokens: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            wanted = completion(f"client {number} asks for the {count}. time", tokens, stream=count % 2 == 0)
            self.replies.append(ask(url, Ask(COMPLETIONS, wanted, [tenant(f"client-{number}")])))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
