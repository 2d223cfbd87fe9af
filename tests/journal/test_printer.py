"""A journal in words: what happened, when, to whom; steady stretches as one line; nothing that steers a terminal."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from costtrace.core.clock import Anchor
from costtrace.core.events import (
    Delivered,
    DeviceRef,
    DeviceSeen,
    EngineReady,
    EngineStarted,
    EngineStopped,
    Heartbeat,
    Lost,
    Overhead,
    SequenceAdded,
    SequenceFinished,
    Snapshot,
    Step,
)
from costtrace.journal.printer import JournalPrinter
from costtrace.journal.writer import JournalWriter

SCRIPT = Path(sys.executable).parent / "costtrace"
MS = 1_000_000
ADDED = SequenceAdded(
    7, 1, "s", "chatcmpl-1", "k", "p", 12, "tiny", "acme\x1b[2J", "header", traceparent=f"00-{'ab' * 16}-{'1' * 16}-01"
)


def steps(first, count):
    return [Step(first + k, (first + k) * 10 * MS, (first + k) * 10 * MS + 8 * MS) for k in range(count)]


LIFE = [
    EngineStarted(1, "vllm", "0.1", "tiny", (DeviceRef("GPU-1", "NVIDIA H100", "gpu", "node"),), lost_hooks=("abort",)),
    EngineReady(MS),
    ADDED,
    Step(0, 2 * MS, 9 * MS, items=((7, 12, 0),)),
    Step(1, 10 * MS, 18 * MS, enters=((7, 12),)),
    *steps(2, 3),
    Heartbeat(45 * MS, 46 * MS),
    *steps(5, 3),
    SequenceFinished(7, 80 * MS, 7, "stop", 7, preemptions=2),
    Step(8, 81 * MS, 82 * MS, leaves=(7,)),
    Delivered(7, 83 * MS, "stop", 6),
    Overhead(84 * MS, 86 * MS, "dummy batch"),
    Lost(90 * MS, 3, -1, "recorder full"),
    EngineStopped(99 * MS),
]


def lines_of(events, **options):
    printer = JournalPrinter(Anchor(0, 1_790_000_000_000_000_000), **options)
    return [*printer.lines(events), *printer.pause()]


def write_journal(home, engine_id, events):
    writer = JournalWriter(home, engine_id, lambda sequence: Snapshot(sequence, 0, 0, (), ()), cap_bytes=1 << 30)
    for event in events:
        writer.append([event])
    return writer


def show(home, *words):
    return subprocess.run(
        [SCRIPT, "journal", "show", *words, "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_every_event_is_a_line_with_wall_time_and_steady_steps_are_counted():
    lines = lines_of(LIFE)
    assert len(lines) == len(LIFE) - 6  # six steady steps and a heartbeat are one line
    assert all(line.startswith("2026-09-21 14:13:20.0") for line in lines)
    assert [line for line in lines if "6 steady steps" in line] == [
        "2026-09-21 14:13:20.020Z  step      2-7  6 steady steps, 8.0 ms each, 1 decoding"
    ]


@pytest.mark.parametrize(
    "words",
    [
        "vllm 0.1, model tiny, aggregated, on GPU-1 (NVIDIA H100); hooks that do not fit: abort",
        f"request chatcmpl-1, tenant acme\x1b[2J (header), model tiny, chat, 12 prompt tokens, trace {'ab' * 16}",
        "0  7.0 ms, 0 decoding; runs #7 12 tok after 0",
        "1  8.0 ms, 1 decoding; joins #7 at 12",
        "#7  stop, 7 output tokens, 0 cached, 2 preemptions",
        "8  1.0 ms, 0 decoding; leaves #7",
        "#7  the client got 6 tokens (stop)",
        "2.0 ms for nobody: dummy batch",
        "recorder full (3 steps): its time is unobserved",
    ],
)
def test_the_line_says_what_happened(words):
    assert sum(words in line for line in lines_of(LIFE)) == 1


def test_after_damage_those_decode_whom_the_snapshot_names():
    lost, snapshot = Lost(0, -1, -1, "journal damaged"), Snapshot(9, 50 * MS, 5, (), ((8, 30), (9, 31)))
    assert lines_of([*LIFE[:6], lost, snapshot, *steps(5, 2)])[-1].endswith("2 steady steps, 8.0 ms each, 2 decoding")
    nobody = Snapshot(9, 50 * MS, 5, (), ())
    assert lines_of([*LIFE[:6], lost, nobody, *steps(5, 2)])[-1].endswith("0 decoding")


def test_a_steady_stretch_counts_those_who_decoded_in_it_also_where_the_next_step_changes_that():
    events = [*LIFE[:6], Step(3, 30 * MS, 38 * MS, leaves=(7,))]
    assert next(line for line in lines_of(events) if "a steady step" in line).endswith("1 decoding")


def test_all_shows_every_step_and_heartbeat():
    assert len(lines_of(LIFE, everything=True)) == len(LIFE)


def test_a_steady_stretch_goes_on_over_batches_of_a_reader():
    printer = JournalPrinter(Anchor(0, 0))
    lines = [*printer.lines(steps(0, 2)), *printer.lines(steps(2, 2)), *printer.pause()]
    assert len(lines) == 1
    assert "0-3  4 steady steps" in lines[0]


def test_the_newest_journal_is_shown_and_steers_no_terminal(tmp_path):
    write_journal(tmp_path, "old", LIFE[:1]).close()
    time.sleep(0.02)
    write_journal(tmp_path, "new", LIFE).close()
    done = show(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "segment 1 of new, host" in done.stdout.splitlines()[0]
    assert "\x1b" not in done.stdout
    assert "acme\\x1b[2J" in done.stdout
    assert len(show(tmp_path, "--limit", "3").stdout.splitlines()) == 3
    assert "segment 1 of old" in show(tmp_path, "ol").stdout


def test_a_journal_that_is_not_there_is_named_with_those_that_are(tmp_path):
    for name in ("vllm-1", "vllm-2"):
        write_journal(tmp_path, name, LIFE[:1]).close()
    for engine, message in (("x", "no journal begins with 'x'"), ("vllm", "several journals begin with 'vllm'")):
        done = show(tmp_path, engine)
        assert done.returncode == 2
        assert message in done.stderr
        assert "vllm-1, vllm-2" in done.stderr


def test_json_is_one_object_an_event(tmp_path):
    write_journal(tmp_path, "one", LIFE).close()
    events = [json.loads(line) for line in show(tmp_path, "--json").stdout.splitlines()]
    assert [event["event"] for event in events[:4]] == [
        "SegmentHeader",
        "EngineStarted",
        "EngineReady",
        "SequenceAdded",
    ]
    assert len(events) == len(LIFE) + 1


def test_json_has_a_seen_device_under_the_name_that_it_had_from_the_first(tmp_path):
    write_journal(tmp_path, "sensors-1", [DeviceSeen("GPU-1", MS, "NVIDIA H100", "gpu", "gpu", "nvml_counter")]).close()
    *_, seen = map(json.loads, show(tmp_path, "--json").stdout.splitlines())
    assert (seen["event"], seen["uuid"]) == ("Sensed", "GPU-1")


def test_a_torn_tail_does_not_hide_the_rest(tmp_path):
    write_journal(tmp_path, "torn", LIFE).close()
    (segment,) = (tmp_path / "journal" / "torn").glob("*.ctj")
    segment.write_bytes(segment.read_bytes()[:-3])
    done = show(tmp_path)
    assert done.returncode == 0
    assert "recorder full" in done.stdout
    assert "stopped" not in done.stdout


def test_follow_shows_what_comes_and_ends_with_the_engine(tmp_path):
    writer = write_journal(tmp_path, "live", LIFE[:5])
    words = [SCRIPT, "journal", "show", "--follow", "--home", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
        first = [follower.stdout.readline() for _ in range(6)]
        assert "joins #7" in first[-1]
        for event in LIFE[5:]:
            writer.append([event])
        writer.close()
        rest = follower.stdout.read()
        assert follower.wait(30) == 0
    assert "steady steps" in rest
    assert rest.splitlines()[-1].endswith("shutdown")


def test_the_list_of_journals_says_which_engines_run(tmp_path):
    write_journal(tmp_path, "ended", LIFE).close()
    running = write_journal(tmp_path, "alive", LIFE)
    done = subprocess.run(
        [SCRIPT, "journal", "list", "--home", str(tmp_path)], capture_output=True, text=True, check=False
    )
    running.close()
    states = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[4:]}
    assert states == {"ended": "ended", "alive": "running"}
