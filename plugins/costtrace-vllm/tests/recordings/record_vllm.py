"""Records what the hooks see of vLLM's real scheduler, for tests that run without vLLM. Counts and ids only.

    cd plugins/costtrace-vllm/tests
    PYTHONPATH=. $VLLM_ENVIRONMENT/bin/python recordings/record_vllm.py $TINY_MODEL recordings

writes one ``vllm-<version>-<name>.json`` for each kind of scheduling. A recording is a list of records: a note as the
hooks make it, or ``["step", index, [[id, tokens, context]], [[id, tokens, context, prompt tokens]], [finished ids]]``.
"""

import argparse
import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["COSTTRACE_ENABLED"] = "false"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from costtrace_vllm.engine_side import scheduler_hooks
from vllm_scheduler import Drive, make_config, make_scheduler

from costtrace.capture.recorder import STEP, Recorder

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "asynchronous": {"asynchronous": True, "depth": 2},
    "preempted": {"blocks": 28},
    "preempted-asynchronous": {"blocks": 28, "asynchronous": True, "depth": 2},
    "drafts": {"drafts": 3},
}


def record(config: Any, *, asynchronous: bool = False, depth: int = 1, blocks: int = 4_000, drafts: int = 0) -> list:
    scheduler = make_scheduler(copy.deepcopy(config), asynchronous=asynchronous, blocks=blocks)
    recorder = Recorder(capacity=1_000_000)
    scheduler_hooks.record_scheduler(scheduler, recorder)
    drive = Drive(scheduler, seed=7, depth=depth, drafts=drafts, stop_percent=2)
    shared = [drive.random.randrange(5, 500) for _ in range(40)]
    names = []
    for turn in range(90):
        if turn < 60 and turn % 3 != 2:
            tail = [drive.random.randrange(5, 500) for _ in range(drive.random.randint(1, 90))]
            names.append(drive.add(shared + tail if turn % 2 else tail, drive.random.randint(1, 40)))
        if turn % 17 == 16:
            drive.abort(names[-1])
        if scheduler.has_requests():
            drive.step()
    drive.drain()
    return [plain(item) for item in recorder.drain()]


def plain(item: tuple[Any, ...]) -> list:
    if item[0] != STEP:
        return ["note", *item[2:]]
    batch = item[4]
    tokens, cached = batch.num_scheduled_tokens, batch.scheduled_cached_reqs
    return [
        "step",
        item[1],
        [[name, tokens[name], at] for name, at in zip(cached.req_ids, cached.num_computed_tokens, strict=True)],
        [
            [n.req_id, tokens[n.req_id], n.num_computed_tokens, len(n.prompt_token_ids)]
            for n in batch.scheduled_new_reqs
        ],
        sorted(batch.finished_req_ids),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model", help="folder of a model (its weights are not loaded)")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    import vllm

    arguments = {"max_num_seqs": 12, "max_num_batched_tokens": 96}
    method = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    for name, how in KINDS.items():
        more = {"speculative_config": method} if "drafts" in how else {}
        records = record(make_config(options.model, **arguments, **more), **how)
        path = options.folder / f"vllm-{vllm.__version__.partition('+')[0]}-{name}.json"
        path.write_text("[\n" + ",\n".join(json.dumps(item) for item in records) + "\n]\n")
        preempted = sum(item[-1] > 0 for item in records if item[1] == "freed")
        sys.stderr.write(f"{path.name}: {len(records)} records, {preempted} preempted\n")


if __name__ == "__main__":
    main()
