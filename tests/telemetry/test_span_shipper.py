"""What is refused now and taken later, and what never is: minutes of it, by a clock of the test's own."""

from collections import Counter

import pytest
from opentelemetry.sdk.resources import Resource
from otlp_receiver import cursor, new_ledger, notices, record, turn, write

from costtrace.telemetry import held_records
from costtrace.telemetry.held_records import CONTRASTS, PROBE_S
from costtrace.telemetry.span_batch import SILENCE
from costtrace.telemetry.span_shipper import SpanShipper
from costtrace.telemetry.spans import DEFAULT_PROFILES, SpanBuilder
from costtrace.telemetry.transport import Answer, Outcome

RECORD = "costtrace.record.id"
WHY = "HTTP 500 Internal Server Error"


class Receiver:
    """Takes spans but where it is told to refuse: everything, some records, or what is too much for it."""

    def __init__(self) -> None:
        self.taken = Counter[str]()
        self.asked: list[set[str]] = []
        self.down = Outcome.DELIVERED
        self.bad = set[str]()
        self.most = 10_000
        self.down_after = 10_000

    def send(self, spans) -> Answer:
        ids = {span.attributes[RECORD] for span in spans if RECORD in span.attributes}
        self.asked.append(ids)
        outcome = self.down
        if len(ids) > self.most:
            outcome = Outcome.TOO_BIG
        elif len(self.taken) >= self.down_after or (outcome is Outcome.DELIVERED and ids & self.bad):
            outcome = Outcome.REFUSED
        if outcome is Outcome.DELIVERED:
            self.taken.update(ids)
        return Answer(outcome, "" if outcome is Outcome.DELIVERED else WHY)

    def close(self) -> None:
        pass


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Run:
    """A shipper that is moved on by the test: a round, and then the time that it would have waited."""

    def __init__(self, ledger, receiver, clock) -> None:
        self.ledger, self.receiver, self.clock = ledger, receiver, clock
        builder = SpanBuilder(Resource({}), DEFAULT_PROFILES, None, None)
        self.shipper = SpanShipper(ledger.path, builder, lambda: receiver, "otlp:abc", clock=clock)
        self.shipper._transport = receiver

    def go(self, seconds: float, traffic=None) -> None:
        """`traffic`: numbers of records that are booked one each second meanwhile."""
        end_s = self.clock.now_s + seconds
        booked_s = self.clock.now_s
        while self.clock.now_s < end_s:
            while traffic is not None and booked_s <= self.clock.now_s:
                number = next(traffic)
                write(self.ledger, turn([record(number)], window=number))
                booked_s += 1
            self.clock.now_s += self.shipper._send(self.ledger)

    @property
    def status(self):
        return self.shipper.status


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path):
    return new_ledger(tmp_path, 471)


def held(ledger) -> list[tuple[str, int]]:
    sql = "SELECT consumer, usage_id FROM cursor WHERE consumer LIKE '%#%' ORDER BY usage_id"
    return [tuple(row) for row in ledger.connection.execute(sql)]


def names(*numbers: int) -> set[str]:
    return {f"engine-1/{n}" for n in numbers}


@pytest.mark.parametrize(
    ("outage_s", "taken_before"), [(3, 58), (40, 58), (40, 100), (40, 250), (40, 470), (1_000, 250)]
)
def test_an_outage_that_begins_in_the_middle_of_a_batch_loses_no_record(ledger, clock, outage_s, taken_before):
    receiver = Receiver()
    receiver.most, receiver.down_after = 59, taken_before  # the batch is taken in parts
    run, traffic = Run(ledger, receiver, clock), iter(range(1_000, 100_000))
    run.go(outage_s, traffic)
    assert len(receiver.taken) < taken_before + 60
    assert run.status.refused == 0
    receiver.down_after = 1_000_000
    run.go(61, traffic)  # the longest wait, and a round

    booked = next(traffic) - 1_000
    assert receiver.taken == Counter(names(*range(1, 472), *range(1_000, 1_000 + booked)))
    assert (run.status.sent, run.status.refused, run.status.behind) == (471 + booked, 0, 0)
    assert notices(ledger) == []
    assert held(ledger) == []


def test_a_receiver_that_takes_nothing_is_not_pestered(ledger, clock):
    receiver = Receiver()
    receiver.most, receiver.down_after = 59, 100
    run = Run(ledger, receiver, clock)
    run.go(10)
    assert len(receiver.asked) <= 8 + SILENCE + 12  # the parts that it took, what showed that it is down, one a second


def test_a_record_that_is_refused_for_minutes_beside_others_that_are_taken_is_left_out_and_named(ledger, clock):
    receiver, traffic = Receiver(), iter(range(1_000, 100_000))
    receiver.bad = names(17, 18)
    run = Run(ledger, receiver, clock)
    run.go(PROBE_S - 1, traffic)
    assert run.status.refused == 0
    assert len(held(ledger)) == 2
    assert run.status.behind == 2
    run.go(60, traffic)

    assert run.status.refused == 2
    assert sorted(notices(ledger)) == [
        f"record engine-1/{n} was sent no span: its receiver refuses it ({WHY}). The ledger has it." for n in (17, 18)
    ]
    assert held(ledger) == []
    booked = next(traffic) - 1_000
    assert receiver.taken == Counter(names(*range(1, 472), *range(1_000, 1_000 + booked)) - names(17, 18))
    assert run.status.sent == 471 + booked - 2
    alone = sum(ids == names(17) for ids in receiver.asked)
    assert alone <= 20


def test_a_record_that_is_refused_beside_nothing_is_held(ledger, clock, caplog):
    receiver = Receiver()
    receiver.bad = names(17)
    run = Run(ledger, receiver, clock)
    run.go(10 * PROBE_S)
    assert (run.status.refused, run.status.behind) == (0, 1)
    assert held(ledger) == [("otlp:abc#17", 16)]
    assert cursor(ledger) == 471
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1
    assert f"refuses while it takes others: 1 ({WHY})" in said[0]

    for number in range(1_000, 1_000 + CONTRASTS):  # with something to compare with it is clear
        write(ledger, turn([record(number)], window=number))
        run.go(61)
    assert run.status.refused == 1


def test_a_record_is_not_given_up_while_nothing_else_is_taken(ledger, clock):
    receiver, traffic = Receiver(), iter(range(1_000, 100_000))
    receiver.bad = names(17, 18, 19)
    run = Run(ledger, receiver, clock)
    run.go(30, traffic)  # a receiver that is in trouble refuses these while it takes others, and then everything
    receiver.down_after = 0
    run.go(2 * PROBE_S, traffic)
    assert run.status.refused == 0
    receiver.bad, receiver.down_after = set(), 1_000_000
    run.go(61, traffic)
    assert (run.status.refused, run.status.behind) == (0, 0)
    assert set(receiver.taken.values()) == {1}


def test_what_is_held_is_held_by_the_next_process_and_sent_once(ledger, clock):
    receiver = Receiver()
    receiver.most, receiver.down_after = 59, 100
    Run(ledger, receiver, clock).go(5)
    missing = {f"engine-1/{n}" for n in range(1, 472)} - set(receiver.taken)
    assert len(held(ledger)) == len(missing) > 300
    receiver.down_after, receiver.most = 10_000, 10_000
    ledger.connection.execute("DELETE FROM usage WHERE usage_id = 471")  # as a closed month is compacted
    run = Run(ledger, receiver, clock)
    run.go(5)
    assert receiver.taken == Counter(names(*range(1, 471)))
    assert run.status.sent == len(missing) - 1
    assert held(ledger) == []


@pytest.mark.parametrize("bad", [range(100, 130), range(1, 400, 2)])
def test_many_bad_records_hold_up_no_others(ledger, clock, bad):
    receiver, traffic = Receiver(), iter(range(1_000, 100_000))
    receiver.bad = names(*bad)
    run = Run(ledger, receiver, clock)
    run.go(30, traffic)
    assert set(receiver.taken) >= names(*range(1, 472)) - receiver.bad
    run.go(2 * PROBE_S, traffic)
    assert run.status.refused == len(bad)
    assert set(receiver.taken.values()) == {1}


def test_a_batch_of_bad_records_alone_holds_up_nobody(ledger, clock):
    receiver, traffic = Receiver(), iter(range(1_000, 100_000))
    receiver.bad = names(*range(1, 472))
    write(ledger, turn([record(n) for n in range(500, 600)], window=500))
    run = Run(ledger, receiver, clock)
    run.shipper._most = run.shipper._limit = 471
    run.go(30, traffic)
    assert set(receiver.taken) >= names(*range(500, 600))
    run.go(2 * PROBE_S, traffic)
    assert run.status.refused == 471


def test_a_receiver_that_is_down_from_the_beginning_loses_nothing(ledger, clock):
    receiver, traffic = Receiver(), iter(range(1_000, 100_000))
    receiver.down_after = 0
    run = Run(ledger, receiver, clock)
    run.go(1_000, traffic)
    assert not run.status.up
    assert run.status.behind == 471 + next(traffic) - 1_000
    receiver.down_after = 1_000_000
    run.go(61, traffic)
    assert (run.status.refused, run.status.behind, run.status.up) == (0, 0, True)
    assert set(receiver.taken.values()) == {1}


def test_more_than_it_holds_is_read_no_faster_than_it_can_be_told_apart(ledger, clock, monkeypatch):
    monkeypatch.setattr(held_records, "MOST", 50)
    receiver, traffic = Receiver(), iter(range(1_000, 100_000))
    receiver.bad = names(*range(1, 400, 2))
    run = Run(ledger, receiver, clock)
    run.go(4 * PROBE_S, traffic)
    assert run.status.refused == 200
    run.go(60, traffic)
    assert set(receiver.taken) == names(*range(1, 472), *range(1_000, next(traffic))) - receiver.bad
    assert not run.shipper._held.crowded
