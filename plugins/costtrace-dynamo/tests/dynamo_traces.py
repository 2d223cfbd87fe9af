"""Lines and files of Dynamo's traces, as its workers and its frontend write them."""

import gzip
import json

from otlp_receiver import MS, WALL

WORKER = "15671851427547792706"


def pass_line(counter=1, wall="0.010000001", *, mode="full", version=1, worker=WORKER, end_ms=100):
    scheduled = {"num_prefill_requests": 0, "sum_prefill_tokens": 0, "num_decode_requests": 1}
    fpm = {"version": version, "worker_id": worker, "dp_rank": 0, "counter_id": counter, "wall_time": "?"}
    event = {"schema": "dynamo.fpm.trace.v1", "capture_mode": mode, "observed_at_unix_ms": WALL // MS + end_ms}
    line = json.dumps({"timestamp": 1, "event": {**event, "fpm": {**fpm, "scheduled_requests": scheduled}}})
    return line.replace('"?"', wall) + "\n"


def request_line(kind="request_end", **changes):
    request = {
        "request_id": "r",
        "input_tokens": 9,
        "output_tokens": 8,
        "request_received_ms": WALL // MS,
        "ttft_ms": 20.5,
        "total_time_ms": 130.25,
        "worker": {"prefill_worker_id": int(WORKER), "decode_worker_id": int(WORKER)},
        **changes,
    }
    event = {"schema": "dynamo.request.trace.v1", "event_type": kind, "event_time_unix_ms": WALL // MS + 131}
    return json.dumps({"timestamp": 1, "event": {**event, "request": request}}) + "\n"


def put(path, *lines):
    data = "".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
