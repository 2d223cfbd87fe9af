"""A state that an earlier release wrote into its ledger is gone on from: the fields keep their stored names.

`states/0.1.0.json` was written by 0.1.0 in the middle of a simulated engine's life: a model with sliding windows, head
fees by tenant, and energy that is known up to some steps ago, so that `Accounts` is behind `Membership`. Beside the
state it holds the events and readings that came after it, and the rows that 0.1.0 made of them.
"""

import json
from pathlib import Path

import msgspec
import pytest

from costtrace.attribution.energy.counter_windows import DeviceMeter
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import EngineState, Pipeline
from costtrace.attribution.time.shared_devices import DeviceGroup
from costtrace.core.events import AnyEvent, Reading

STATES = sorted((Path(__file__).parent / "states").glob("*.json"))
assert STATES

states = pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)


def field(path, *names):
    value = json.loads(path.read_text())
    for name in names:
        value = value[name]
    return json.dumps(value)


def restored(path, kind, *names):
    return msgspec.json.decode(field(path, *names), type=kind)


@states
def test_an_old_state_goes_on_to_the_rows_that_its_own_release_would_have_made(path):
    policy = restored(path, Policy, "policy")
    pipeline = Pipeline(policy, restored(path, int, "window_length_ns"))
    pipeline.engines["e"] = restored(path, EngineState, "states", "engine")
    pipeline.engines["e"].attribution.policy = policy
    pipeline.groups[0] = restored(path, DeviceGroup, "states", "group")
    pipeline.group_of_device = restored(path, dict[str, int], "states", "group_of_device")
    pipeline.next_group = restored(path, int, "states", "next_group")
    pipeline.meters = restored(path, dict[str, DeviceMeter], "states", "meters")
    pipeline.wall_offsets = restored(path, dict[str, int], "states", "wall_offsets")
    for event in restored(path, list[AnyEvent], "events"):
        pipeline.take("e", event)
    for reading in restored(path, list[Reading], "readings"):
        pipeline.reading(restored(path, str, "boot_id"), reading)
    pipeline.sweep(1 << 62)
    rows = pipeline.take_rows()
    assert [
        [p.window_ns, p.kind, p.record_id, p.gpu_ns, p.prefill_ns, p.decode_ns, p.energy_uj] for p in rows.postings
    ] == restored(path, list, "postings")
    assert [
        [r.record_id, r.gpu_ns, r.prefill_ns, r.decode_ns, r.wasted_ns, r.energy_uj, r.head_ns] for r in rows.records
    ] == restored(path, list, "records")


@states
def test_every_name_that_an_old_state_of_the_cohort_holds_is_written_again(path):
    engine = json.loads(field(path, "states", "engine"))
    written = json.loads(msgspec.json.encode(restored(path, EngineState, "states", "engine")))
    for names in (
        ("stage", "membership"),
        ("stage", "membership", "passing"),
        ("attribution", "accounts"),
        ("attribution", "accounts", "cohort"),
        ("attribution", "accounts", "passing"),
    ):
        old, new = engine, written
        for name in names:
            old, new = old[name], new[name]
        assert without_appended(new, old) == old, names


def without_appended(new, old):
    """*new* without the fields that later releases have appended to the event of a sequence's arrival."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    return {
        name: value[: len(old[name])] if name == "added" else without_appended(value, old.get(name))
        for name, value in new.items()
    }


@states
def test_the_old_state_holds_what_is_hard(path):
    engine = restored(path, EngineState, "states", "engine")
    ahead, behind = engine.energy_queue.membership, engine.attribution.accounts
    assert ahead.step > behind.cohort.step > 0
    assert behind.cohort.count > behind.cohort.capped > 0
    assert ahead.crossings.due != behind.crossings.due != {}
    assert behind.fees.groups
