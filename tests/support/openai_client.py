"""A client of OpenAI's own package, for `test_answer_estimates.py`: what it understood of each answer, as JSON.

Run by a Python that has the package openai: URL TENANT MODEL, and KIND... of `KINDS`. Usage, and headers where the
client shows them.
"""

import json
import sys

from openai import OpenAI

url, tenant, model, *kinds = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key="none", default_headers={"x-costtrace-tenant": tenant}, max_retries=0)
PROMPT = "Every request gets its share of the time, and the rows add up to the meter. " * 3
EXACT = {"ignore_eos": True, "temperature": 0}
USAGE = {"include_usage": True}


def chat(**more):
    said = [{"role": "user", "content": PROMPT}]
    return client.chat.completions.with_raw_response.create(
        model=model, messages=said, max_tokens=24, extra_body=EXACT, **more
    )


def completion(**more):
    return client.completions.with_raw_response.create(
        model=model, prompt=PROMPT, max_tokens=24, extra_body=EXACT, **more
    )


def one(raw):
    answer = raw.parse()
    return {"id": answer.id, "usage": answer.usage.model_dump(), "headers": dict(raw.headers)}


def stream(raw):
    chunks = list(raw.parse())
    stated = [chunk.usage.model_dump() for chunk in chunks if chunk.usage is not None]
    return {"id": chunks[0].id, "stated": stated, "usage": stated[-1] if stated else {}, "headers": dict(raw.headers)}


def embedding():
    raw = client.embeddings.with_raw_response.create(model=model, input=PROMPT)
    return {"id": "", "usage": raw.parse().usage.model_dump(), "headers": dict(raw.headers)}


KINDS = {
    "chat": lambda: one(chat()),
    "completion": lambda: one(completion()),
    "chat-streamed": lambda: stream(chat(stream=True, stream_options=USAGE)),
    "completion-streamed": lambda: stream(completion(stream=True, stream_options=USAGE)),
    "chat-streamed-without-usage": lambda: stream(chat(stream=True)),
    "embedding": embedding,
}
sys.stdout.write(json.dumps({kind: KINDS[kind]() for kind in kinds}))
