"""A batch on its way to a receiver that may refuse some of it."""

from collections import Counter
from collections.abc import Callable

import pytest

from costtrace.telemetry.span_batch import SILENCE, Item, Progress, SpanBatch
from costtrace.telemetry.transport import Answer, Outcome


class Receiver:
    """Refuses a send where `refuses` returns an outcome; counts the spans that it has taken."""

    def __init__(self, refuses: Callable[[list[str]], Outcome | None]) -> None:
        self.refuses = refuses
        self.taken: Counter[str] = Counter()
        self.sends = 0

    def send(self, spans) -> Answer:
        self.sends += 1
        outcome = self.refuses(list(spans))
        if outcome is not None:
            return Answer(outcome, "because")
        self.taken.update(spans)
        return Answer(Outcome.DELIVERED)


def batch(count: int) -> SpanBatch:
    return SpanBatch([Item(f"r{n}", [f"r{n}"]) for n in range(count)], last_id=count)


def drive(span_batch: SpanBatch, receiver: Receiver) -> Progress:
    while True:
        progress = span_batch.send_next(receiver.send)
        if progress is not Progress.MORE:
            return progress


def suspects(span_batch: SpanBatch) -> set[str]:
    return {item.record_id for part in span_batch.suspects for item in part}


@pytest.mark.parametrize("bad", [{0}, {511}, {7, 8, 300}, {100, 101, 102, 103}])
def test_bad_records_are_found_and_all_others_arrive_once(bad: set[int]):
    poison = {f"r{n}" for n in bad}
    receiver = Receiver(lambda spans: Outcome.REFUSED if poison & set(spans) else None)
    span_batch = batch(512)

    assert drive(span_batch, receiver) is Progress.DONE
    assert suspects(span_batch) == poison
    assert {len(part) for part in span_batch.suspects} == {1}
    assert span_batch.refused == {}
    assert receiver.taken == Counter({f"r{n}": 1 for n in range(512) if n not in bad})
    assert span_batch.delivered == 512 - len(bad)


@pytest.mark.parametrize("taken_before", [1, 2, 3])
def test_a_receiver_that_stops_taking_anything_loses_nothing_and_is_not_pestered(taken_before):
    def refuse(spans: list[str]) -> Outcome | None:
        if len(spans) > 120:
            return Outcome.TOO_BIG
        return Outcome.REFUSED if len(receiver.taken) >= taken_before * 117 else None

    span_batch, receiver = batch(471), Receiver(refuse)

    assert drive(span_batch, receiver) is Progress.DONE
    assert span_batch.refused == {}
    assert suspects(span_batch) == {f"r{n}" for n in range(471)} - set(receiver.taken)
    assert receiver.sends <= 3 + taken_before + SILENCE


def test_many_bad_records_in_a_row_are_suspected_with_what_comes_after_them():
    poison = {f"r{n}" for n in range(100, 130)}
    receiver = Receiver(lambda spans: Outcome.REFUSED if poison & set(spans) else None)
    span_batch = batch(512)

    assert drive(span_batch, receiver) is Progress.DONE
    assert suspects(span_batch) | set(receiver.taken) == {f"r{n}" for n in range(512)}
    assert suspects(span_batch) >= poison
    assert not poison & set(receiver.taken)


@pytest.mark.parametrize("bad", [range(200), range(300, 512), range(0, 512, 2), range(1, 512, 2), range(0, 512, 3)])
def test_a_receiver_that_works_is_found_to_work_whichever_records_are_bad(bad):
    poison = {f"r{n}" for n in bad}
    receiver = Receiver(lambda spans: Outcome.REFUSED if poison & set(spans) else None)

    assert drive(batch(512), receiver) is Progress.DONE
    assert len(receiver.taken) > 0


def test_what_cannot_be_encoded_is_left_out_at_once():
    receiver = Receiver(lambda spans: Outcome.UNSENDABLE if "r3" in spans else None)
    span_batch = batch(8)

    assert drive(span_batch, receiver) is Progress.DONE
    assert span_batch.refused == {"r3": "because"}
    assert span_batch.suspects == []


def test_a_receiver_that_refuses_everything_loses_nothing():
    span_batch, receiver = batch(512), Receiver(lambda _: Outcome.REFUSED)

    assert drive(span_batch, receiver) is Progress.STUCK
    assert span_batch.refused == {}
    assert receiver.sends == SILENCE  # it is not pestered with every single record


def test_a_single_bad_record_is_not_left_out_while_nothing_shows_that_the_receiver_works():
    span_batch, receiver = batch(1), Receiver(lambda _: Outcome.REFUSED)

    assert drive(span_batch, receiver) is Progress.STUCK
    assert span_batch.refused == {}


def test_an_outage_in_the_middle_goes_on_where_it_was():
    down = False
    poison = "r5"

    def refuse(spans: list[str]) -> Outcome | None:
        if down:
            return Outcome.AGAIN
        return Outcome.REFUSED if poison in spans else None

    span_batch, receiver = batch(16), Receiver(refuse)
    for _ in range(3):
        span_batch.send_next(receiver.send)
    down = True
    assert span_batch.send_next(receiver.send) is Progress.AGAIN
    down = False

    assert drive(span_batch, receiver) is Progress.DONE
    assert receiver.taken == Counter({f"r{n}": 1 for n in range(16) if n != 5})


def test_a_batch_that_is_too_big_is_sent_in_parts():
    receiver = Receiver(lambda spans: Outcome.TOO_BIG if len(spans) > 10 else None)
    span_batch = batch(64)

    assert drive(span_batch, receiver) is Progress.DONE
    assert receiver.taken == Counter({f"r{n}": 1 for n in range(64)})
    assert span_batch.largest <= 10


def test_a_batch_without_spans_is_done_at_once():
    assert SpanBatch([], 7, unsampled=3).done
