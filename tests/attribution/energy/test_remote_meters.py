"""Devices on another node: where their readings are placed, how long is waited for them, and what is never guessed."""

import msgspec
import pytest
from costtrace_lab.engines.schedules import BOOT_ID, header
from costtrace_lab.engines.schedules import started as simulated_start

from costtrace.attribution.energy.device_match import resolve
from costtrace.attribution.energy.remote_meters import RemoteMeters
from costtrace.attribution.engine import Policy
from costtrace.attribution.pipeline import Pipeline
from costtrace.core.events import (
    DeviceRef,
    DeviceSeen,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Reading,
    SegmentHeader,
    Step,
)
from costtrace.core.units import NS_PER_S

WALL_NS = 1_800_000_000 * NS_PER_S
AWAY_NS = 90_000 * NS_PER_S
"""What the other node's monotonic clock is ahead by."""
JOURNAL = "remote:sensors-node-b-1"


def s(seconds):
    return round(seconds * NS_PER_S)


def away_header(host="node-b"):
    return SegmentHeader(1, JOURNAL, 1, 0, host, "another boot", 1, AWAY_NS, WALL_NS)


def away_reading(at_s, uj, **fields):
    return Reading("GPU-away", s(at_s) + AWAY_NS, uj, None, "nvml_counter", **fields)


def idle_engine(pipeline, devices, *, until_s, settings=None):
    """An engine that is ready at once, and idles."""
    start = simulated_start(devices, NS_PER_S)
    start = msgspec.structs.replace(start, settings=settings or {})
    for event in (
        header("engine", NS_PER_S),
        start,
        Step(0, s(2), s(3)),
        Heartbeat(s(until_s), WALL_NS + s(until_s), 0, 0),
    ):
        if isinstance(event, SegmentHeader):
            pipeline.add("engine", event)
        pipeline.take("engine", event)


def remote_pipeline(wait_s=60):
    pipeline = Pipeline(Policy(), 60 * NS_PER_S, remote_wait_ns=s(wait_s), remote_clock_ns=5)
    pipeline.remote.open(JOURNAL, away_header())
    return pipeline


def metered(pipeline, until_s):
    """Meter rows of the engine once it has ended."""
    pipeline.take("engine", EngineStopped(s(until_s)))
    pipeline.sweep(s(until_s) + 1)
    return pipeline.take_rows().meter


def test_a_reading_is_placed_by_wall_time_and_not_by_the_other_nodes_monotonic_clock():
    pipeline = remote_pipeline()
    idle_engine(pipeline, ["GPU-away@node-b"], until_s=10)
    for at_s in (0, 4, 11):
        pipeline.remote_reading(BOOT_ID, JOURNAL, away_reading(at_s, at_s * 1_000_000))
    pipeline.sweep(s(10))
    meter = pipeline.meters[f"{BOOT_ID}/GPU-away"]
    assert meter.last_ns == s(4), "on this node's clock; the reading at 11 s is in the future yet"
    assert meter.host == "node-b"


def test_a_reading_of_before_this_nodes_clock_is_known_begins_the_first_window():
    pipeline = remote_pipeline()
    for at_s in (0.25, 0.5):
        pipeline.remote_reading(BOOT_ID, JOURNAL, away_reading(at_s, round(at_s * 1_000_000)))
    idle_engine(pipeline, ["GPU-away@node-b"], until_s=10)
    pipeline.remote_reading(BOOT_ID, JOURNAL, away_reading(11, 11_000_000))
    pipeline.sweep(s(10))
    pipeline.take("engine", EngineStopped(s(10)))
    pipeline.sweep(s(12))
    pipeline.sweep(s(12))
    (row,) = pipeline.take_rows().meter
    outside = pipeline.meters[f"{BOOT_ID}/GPU-away"].outside_uj
    assert row.energy_uj + outside == 10_500_000
    assert (row.energy_unknown_ns, row.sensor.host, row.sensor.clock_ns) == (0, "node-b", 5)


def test_while_nothing_arrives_the_time_is_pending_and_on_no_row():
    pipeline = remote_pipeline()
    idle_engine(pipeline, ["GPU-here", "GPU-away@node-b"], until_s=10)
    pipeline.sweep(s(10))
    rows = pipeline.take_rows()
    assert (rows.postings, rows.meter) == ([], [])
    (pending,) = pipeline.pending_rows()
    assert (pending.device, pending.host, pending.engine_id) == ("GPU-away", "node-b", "engine")
    assert pending.device_ns == s(9)


def test_after_the_wait_its_energy_is_unknown_and_its_time_is_billed():
    pipeline = remote_pipeline(wait_s=60)
    idle_engine(pipeline, ["GPU-away@node-b"], until_s=10)
    pipeline.take("engine", EngineStopped(s(10)))
    pipeline.sweep(s(69))
    assert pipeline.take_rows().meter == []
    pipeline.sweep(s(71))
    pipeline.sweep(s(71))
    (row,) = pipeline.take_rows().meter
    assert (row.energy_uj, row.energy_unknown_ns, row.sensor) == (None, s(9), None)
    assert pipeline.pending_rows() == []


def test_without_other_nodes_homes_nothing_is_waited_for():
    pipeline = Pipeline(Policy(), 60 * NS_PER_S)
    idle_engine(pipeline, ["GPU-away@node-b"], until_s=10)
    (row,) = metered(pipeline, 10)
    assert (row.energy_uj, row.energy_unknown_ns) == (None, s(9))


def test_what_this_nodes_own_sensors_see_is_not_taken_from_another():
    pipeline = remote_pipeline()
    pipeline.device_seen(BOOT_ID, DeviceSeen("GPU-away", 0, "H100", "gpu", "gpu", "nvml_counter"))
    idle_engine(pipeline, ["GPU-away"], until_s=10)
    pipeline.remote_reading(BOOT_ID, JOURNAL, away_reading(1, 1))
    assert pipeline.meters == {}


def test_an_index_on_another_node_is_never_looked_up_among_this_nodes_devices():
    pipeline = remote_pipeline()
    pipeline.device_seen(BOOT_ID, DeviceSeen("GPU-here", 0, "H100", "gpu", "gpu", "nvml_counter", index=0))
    pipeline.reading(BOOT_ID, Reading("GPU-here", NS_PER_S, 0, None, "nvml_counter"))
    idle_engine(pipeline, ["cuda-node-b-0@node-b"], until_s=10, settings={"cuda_visible_devices": "0"})
    pipeline.sweep(s(10))
    assert pipeline.engines["engine"].energy_queue.devices == (f"{BOOT_ID}/cuda-node-b-0",)
    pipeline.remote.device_seen(JOURNAL, DeviceSeen("GPU-away", 0, "H100", "gpu", "gpu", "nvml_counter", index=0))
    pipeline.remote_reading(BOOT_ID, JOURNAL, away_reading(1, 0))
    pipeline.sweep(s(10))
    assert pipeline.engines["engine"].energy_queue.devices == (f"{BOOT_ID}/GPU-away",)


def test_where_another_node_has_several_gpus_an_index_of_it_stays_unknown():
    pipeline = remote_pipeline()
    for index, uuid in enumerate(("GPU-away", "GPU-other")):
        pipeline.remote.device_seen(JOURNAL, DeviceSeen(uuid, 0, "H100", "gpu", "gpu", "nvml_counter", index=index))
        pipeline.remote_reading(BOOT_ID, JOURNAL, msgspec.structs.replace(away_reading(1, 0), device=uuid))
    idle_engine(pipeline, ["cuda-node-b-0@node-b"], until_s=10, settings={"cuda_visible_devices": "0"})
    pipeline.sweep(s(10))
    assert pipeline.engines["engine"].energy_queue.devices == (f"{BOOT_ID}/cuda-node-b-0",)


def test_a_rank_of_a_peer_is_not_an_index():
    sensed = [DeviceSeen(f"GPU-{n}", 0, "H100", "gpu", "gpu", "nvml_counter", index=n) for n in range(4)]
    assert resolve(DeviceRef("cuda-node-a-2", "H100", "gpu", ""), sensed).uuid == "GPU-2"
    assert resolve(DeviceRef("cuda-node-a-peer-2", "H100", "gpu", ""), sensed).uuid == ""


@pytest.mark.parametrize(("set_by_s", "moved_s"), [(1, 0), (3_600, 3_600)])
def test_a_wall_clock_that_was_set_over_there_is_followed(set_by_s, moved_s):
    remote = RemoteMeters()
    remote.open(JOURNAL, away_header())
    remote.beat(JOURNAL, Heartbeat(AWAY_NS + s(1), WALL_NS + s(1 + set_by_s)))
    (placed,) = remote.place(JOURNAL, away_reading(2, 5), WALL_NS)
    assert placed.at_ns == s(2 + moved_s)


def test_the_state_of_a_node_survives_its_agent():
    pipeline = remote_pipeline()
    idle_engine(pipeline, ["GPU-away@node-b"], until_s=10)
    pipeline.remote_reading(BOOT_ID, JOURNAL, away_reading(0, 0))
    pipeline.sweep(s(10))
    again = msgspec.json.decode(msgspec.json.encode(pipeline), type=Pipeline)
    assert again == pipeline
    assert isinstance(again.engines["engine"].started, EngineStarted)
