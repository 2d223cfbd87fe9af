"""One bad journal beside good ones: it costs the others nothing, and everybody hears of it."""

import json
import os
import random
import shutil
from collections import Counter

import msgspec
import pytest
from balance import table
from click.testing import CliRunner
from costtrace_lab.engines import Profile, RandomEngine
from costtrace_lab.engines.engine import JournalEngine
from crash_processes import BOOK
from ledger_tables import check_settled, rows

from costtrace.agent.loop import Agent
from costtrace.attribution.engine import EngineAttribution
from costtrace.capture.node_files.agent_lock import status
from costtrace.cli.app import cli
from costtrace.cli.doctor import here
from costtrace.cli.doctor.findings import FAIL
from costtrace.config.settings import Settings
from costtrace.core.events import Reading, SegmentHeader, SequenceAdded, SequenceFinished, Snapshot, Step
from costtrace.journal import frames
from costtrace.journal.writer import JournalWriter, segments_in
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.ledger.verify.audit import Audit

ROUNDS = 150


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A home with the journals of two engines on devices of their own."""
    home = tmp_path_factory.mktemp("recorded")
    for name, device in (("a", "GPU-0"), ("b", "GPU-1")):
        engine = RandomEngine(1, Profile(arrivals=1.0))
        journal = JournalEngine(
            home, engine, speed=2, devices=(device,), capacity=1 << 20, engine_id=name, segment_bytes=1000
        )
        journal.run(rounds=ROUNDS)
    assert len(segments_in(home / "journal" / "a")) > 2
    (home / "prices.yaml").write_text(BOOK)
    return home


@pytest.fixture
def home(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "home")
    return tmp_path / "home"


def agent_on(home, **settings):
    return Agent(Settings(home=home, window_s=1, sensor="none", prices=home / "prices.yaml", **settings))


def of(name, home):
    """An engine's rows in the bill."""
    return Counter({row: number for row, number in rows(home).items() if ("engine_id", name) in row})


@pytest.fixture(scope="module")
def undisturbed(recorded, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(recorded, home)
    agent_on(home).run_once()
    check_settled(home)
    return home


def check_in_balance(home):
    with open_ledger(home) as store:
        assert list(Audit(store).discrepancies()) == []


def notices(home):
    return [row["message"] for row in table(home, "notice") if row["subject"] == "journal"]


def rewrite(path, change):
    """Write a segment again with its events changed, and every frame whole."""
    data, start, out = path.read_bytes(), 0, b""
    while (frame := frames.unpack(data, start)) is not None:
        events = list(frame.events)
        change(events)
        out += frames.pack(frame.first_sequence, events)
        start = frame.end
    path.write_bytes(out)


def finishes_twice(home):
    def double(events):
        for place, event in enumerate(events):
            if isinstance(event, SequenceFinished):
                events[place:place] = [event]
                return

    rewrite(segments_in(home / "journal" / "a")[2], double)


def replaced(kind, **fields):
    def change_events(events):
        for place, event in enumerate(events):
            if isinstance(event, kind):
                events[place] = msgspec.structs.replace(event, **fields)

    def spoil(home):
        rewrite(segments_in(home / "journal" / "a")[2], change_events)

    return spoil


def copy_with_a_name(home):
    first = segments_in(home / "journal" / "a")[1]
    shutil.copy(first, first.with_name("00000001 (copy).ctj"))


def twenty_digits(home):
    first = segments_in(home / "journal" / "a")[1]
    shutil.copy(first, first.with_name("9" * 20 + ".ctj"))


def name_that_is_not_utf_8(home):
    shutil.copytree(home / "journal" / "a", home / "journal" / os.fsdecode(b"a\xff"))


def folder_copied(home):
    shutil.copytree(home / "journal" / "a", home / "journal" / "a (copy)")


def segment_that_is_a_directory(home):
    (home / "journal" / "a" / "00000099.ctj").mkdir()


HARMLESS = (copy_with_a_name, twenty_digits, name_that_is_not_utf_8, folder_copied, segment_that_is_a_directory)
SPOILED = {
    "finishes twice": finishes_twice,
    "prompt of 2**64-1 tokens": replaced(SequenceAdded, prompt_tokens=2**64 - 1),
    "steps 2**63 ns long": replaced(Step, done_ns=2**63 + 2**62),
    "steps that end before they begin": replaced(Step, done_ns=-(2**63)),
    "arrived in 2**64-1": replaced(SequenceAdded, arrived_ns=2**64 - 1),
    "an unknown slot ends": replaced(SequenceFinished, slot=2**40),
    "a wall clock of 2**63": replaced(SegmentHeader, wall_ns=2**63),
}


@pytest.mark.parametrize("spoil", [*HARMLESS, *SPOILED.values()], ids=[*(f.__name__ for f in HARMLESS), *SPOILED])
def test_one_bad_journal_costs_the_others_nothing(home, undisturbed, spoil):
    spoil(home)
    for _ in range(2):  # the next agent meets it too, and counts nothing twice
        agent_on(home).run_once()
        check_in_balance(home)
        assert of("b", home) == of("b", undisturbed)
        if spoil in HARMLESS:
            assert of("a", home) == of("a", undisturbed)
    assert len(table(home, "usage")) <= 2 * ROUNDS


def damage(journal, rng):
    """Do to the files of a journal what disks and people do to them."""
    files = [path for path in journal.glob("*.ctj") if path.is_file()]
    path, other = rng.choice(files), rng.choice(files)
    data, strange = bytearray(path.read_bytes()), journal / f"{rng.randrange(1, 120):08d}.ctj"
    match rng.choice(["flip", "cut", "double", "copy over", "copy", "swap", "foreign", "remove", "splice", "unlock"]):
        case "flip" if data:
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[: rng.randrange(len(data) + 1)])
        case "double":
            path.write_bytes(data * 2)
        case "copy over":
            other.write_bytes(data)
        case "copy":
            strange.write_bytes(data)
        case "swap":
            path.write_bytes(other.read_bytes())
            other.write_bytes(data)
        case "foreign":
            strange.write_bytes((journal.parent / "b" / "00000001.ctj").read_bytes())
        case "remove" if len(files) > 1:
            path.unlink()
        case "splice":
            path.write_bytes(data[: rng.randrange(len(data) + 1)] + other.read_bytes()[rng.randrange(50) :])
        case "unlock":
            (journal / "writer.lock").unlink(missing_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_to_the_files_of_one_journal(home, undisturbed, seed):
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 5)):
        damage(home / "journal" / "a", rng)
    for _ in range(2):
        agent_on(home).run_once()
        check_in_balance(home)
        assert of("b", home) == of("b", undisturbed)
    records = [row["record_id"] for row in table(home, "usage")]
    assert len(records) == len(set(records)) <= 2 * ROUNDS


def test_a_copied_journal_of_sensors_is_not_read(home):
    writer = JournalWriter(home, "sensors-h-1", lambda n: Snapshot(n, 1, 0, (), ()), cap_bytes=1 << 30)
    writer.append([Reading("GPU-0", 5, 5, 100, "nvml_counter")])
    writer.close()
    shutil.copytree(writer.directory, writer.directory.with_name("sensors-h-1 (copy)"))
    agent = agent_on(home)
    agent._turn()
    assert list(agent.intake.problems) == ["sensors-h-1 (copy)"]
    agent.run_once()


def test_an_end_that_comes_twice_sets_no_engine_aside(home):
    finishes_twice(home)
    agent_on(home).run_once()
    check_settled(home)
    check_in_balance(home)
    assert notices(home) == []


def fail_half_way(monkeypatch, failing="a"):
    """Attribution of that engine fails once 100 of its grants and events have been fed."""
    feed, fed = EngineAttribution.feed, []

    def feed_or_fail(self, *given):
        if self.engine_id == failing:
            fed.append(self)
            if len(fed) > 100:
                raise KeyError(7)
        feed(self, *given)

    monkeypatch.setattr(EngineAttribution, "feed", feed_or_fail)


def half_booked(home, monkeypatch):
    """What an agent has booked after a frame or two of each journal."""
    with monkeypatch.context() as patch:
        patch.setattr("costtrace.agent.intake.EVENTS_PER_TURN", 1)
        agent = agent_on(home)
        for _ in range(2):
            agent._turn()
        agent._commit(force=True)
        agent._close()
    assert agent.pipeline.engines["a"].group == 0
    assert not agent.pipeline.engines["a"].ended


def test_everybody_hears_of_a_journal_that_is_set_aside(home, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        fail_half_way(patch)
        agent_on(home).run_once()
    (notice,) = notices(home)
    assert f"{home / 'journal' / 'a'} is set aside" in notice
    assert "KeyError: 7" in notice
    assert any(record.exc_info for record in caplog.records), "the log has the traceback"
    assert status(home)["problems"] == [notice]
    (failure,) = [finding for finding in here.agent(Settings(home=home)) if finding.level == FAIL]
    assert failure.message == notice


@pytest.mark.parametrize("begun", [False, True])
def test_a_journal_that_was_set_aside_goes_on_with_the_next_agent(home, undisturbed, monkeypatch, begun):
    if begun:
        half_booked(home, monkeypatch)
    with monkeypatch.context() as patch:
        fail_half_way(patch)
        agent_on(home).run_once()
    assert of("b", home) == of("b", undisturbed)
    assert of("a", home) != of("a", undisturbed)
    check_in_balance(home)
    agent_on(home).run_once()
    check_settled(home)
    assert rows(home) == rows(undisturbed)


class Emission:
    """Takes everything, and has sent nothing when it is stopped."""

    class Health(dict):
        set = dict.__setitem__

        def add(self, name, number):
            self[name] = self.get(name, 0) + number

    def __init__(self):
        self.health = self.Health()

    def start(self):
        """It has nothing to start."""

    def publish(self, booked, is_open=None):
        """It counts nothing."""

    def drained(self):
        return False

    def stop(self):
        return False


def test_health_counts_the_journals_that_are_not_read_and_spans_that_are_left_are_said(home, monkeypatch, caplog):
    folder_copied(home)
    fail_half_way(monkeypatch)
    agent = agent_on(home)
    agent.emission = Emission()
    agent.run_once()
    assert agent.emission.health["journals.failed"] == 2
    assert "not all spans have been sent" in caplog.text


def test_a_row_that_is_there_already_costs_only_its_engine(home, undisturbed):
    taken = next(row for row in table(undisturbed, "usage") if row["engine_id"] == "a")
    ledger = Ledger(home / LEDGER_NAME)
    columns = [name for name in taken if name != "usage_id"]
    ledger.connection.execute(
        f"INSERT INTO usage ({', '.join(columns)}, usage_id) VALUES ({', '.join('?' * len(columns))}, 1)",
        [taken[name] for name in columns],
    )
    ledger.close()
    agent_on(home).run_once()
    (notice,) = notices(home)
    assert "are in the ledger already" in notice
    assert "space" not in notice
    assert [key for key in of("b", home) if key[0] != "usage"] == [
        key for key in of("b", undisturbed) if key[0] != "usage"
    ]
    assert of("b", home) == of("b", undisturbed)


def test_a_copied_folder_is_named_and_spends_nothing(home):
    folder_copied(home)
    agent_on(home).run_once()
    assert len(table(home, "usage")) == 2 * ROUNDS
    (notice,) = notices(home)
    assert "a (copy)" in notice
    assert "belongs to the journal of 'a'" in notice


@pytest.mark.parametrize("state", ["engine:a", "group:0"])
def test_a_state_of_one_engine_that_cannot_be_read_costs_only_that_engine(home, undisturbed, monkeypatch, state):
    half_booked(home, monkeypatch)
    kept = Ledger(home / LEDGER_NAME)
    right = kept.states()[state]
    kept.put_state(state, b'{"queue": 3')
    kept.close()
    agent_on(home).run_once()
    check_in_balance(home)
    assert of("b", home) == of("b", undisturbed)
    (notice,) = notices(home)
    assert "cannot be read" in notice
    kept = Ledger(home / LEDGER_NAME)
    assert kept.states()[state] == b'{"queue": 3', "what cannot be read is not written over"
    kept.put_state(state, right)
    kept.close()
    agent_on(home).run_once()
    check_settled(home)
    assert rows(home) == rows(undisturbed)


def test_an_engine_on_the_device_of_one_that_is_set_aside_is_billed(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name in ("a", "b"):
        engine = RandomEngine(1, Profile(arrivals=1.0))
        JournalEngine(home, engine, speed=0, capacity=1 << 20, engine_id=name).run(rounds=ROUNDS)
    (home / "prices.yaml").write_text(BOOK)
    with monkeypatch.context() as patch:
        fail_half_way(patch)
        agent_on(home).run_once()
    for _ in range(2):
        check_in_balance(home)
        assert sum(row["engine_id"] == "b" for row in table(home, "usage")) == ROUNDS
        agent_on(home).run_once()


def test_an_engine_whose_journal_was_deleted_between_two_agents_ends(home, undisturbed, monkeypatch):
    half_booked(home, monkeypatch)
    shutil.rmtree(home / "journal" / "a")
    agent_on(home).run_once()
    check_settled(home)
    check_in_balance(home)
    assert of("b", home) == of("b", undisturbed)


def test_a_journal_directory_that_cannot_be_read_ends_no_agent(home, undisturbed):
    (home / "journal").rename(home / "elsewhere")
    (home / "journal").write_text("a file")
    agent = agent_on(home)
    agent._turn()
    assert any("cannot read" in problem for problem in status(home)["problems"] or agent._problems())
    (home / "journal").unlink()
    (home / "elsewhere").rename(home / "journal")
    agent.run_once()
    check_settled(home)
    assert rows(home) == rows(undisturbed)


@pytest.mark.parametrize("unreadable", [False, True])
def test_journals_that_are_not_there_when_an_agent_starts_are_not_given_up(home, undisturbed, monkeypatch, unreadable):
    monkeypatch.setattr("costtrace.agent.intake.EVENTS_PER_TURN", 150)
    first = agent_on(home)
    first._turn()
    first._commit(force=True)
    assert first.pipeline.engines.keys() == {"a", "b"}
    first._close()
    (home / "journal").rename(home / "elsewhere")
    if unreadable:
        (home / "journal").write_text("a file")
    agent_on(home).run_once()
    assert any(str(home / "journal") in problem for problem in status(home)["problems"])
    if unreadable:
        (home / "journal").unlink()
    (home / "elsewhere").rename(home / "journal")
    agent_on(home).run_once()
    check_settled(home)
    assert rows(home) == rows(undisturbed)


def test_a_spawned_agent_does_not_live_on_for_a_journal_that_it_cannot_read(home):
    folder_copied(home)
    agent = agent_on(home)
    while agent._turn().changed:
        pass
    agent._commit(force=True)
    assert not agent.intake.alive()
    agent._close()


def verify(home, *words):
    return CliRunner().invoke(cli, ["verify", "--home", str(home), *words], standalone_mode=False)


def test_verify_of_an_empty_ledger_says_that_journals_wait(home):
    Ledger(home / LEDGER_NAME).close()
    done = verify(home)
    assert done.return_value == 1
    assert "nothing has been booked, and 2 journals are there" in done.output
    assert "\nin balance\n" not in done.output
    named = json.loads(verify(home, "--format", "json").output)["discrepancies"]
    assert [item["check"] for item in named] == ["journals"]
    shutil.rmtree(home / "journal")
    (home / "journal" / "sensors-x").mkdir(parents=True)
    assert verify(home).return_value == 0
