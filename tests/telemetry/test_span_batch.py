"""A batch on its way to a receiver that may refuse some of it."""

from collections import Counter
from collections.abc import Callable

import pytest

from costtrace.telemetry.span_batch import TRIES, Item, Progress, SpanBatch
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
        if progress not in (Progress.MORE, Progress.PAUSE):
            return progress


@pytest.mark.parametrize("bad", [{0}, {511}, {7, 8, 300}, set(range(100, 130))])
def test_bad_records_are_found_and_all_others_arrive_once(bad: set[int]):
    poison = {f"r{n}" for n in bad}
    receiver = Receiver(lambda spans: Outcome.REFUSED if poison & set(spans) else None)
    span_batch = batch(512)

    assert drive(span_batch, receiver) is Progress.DONE
    assert set(span_batch.refused) == poison
    assert receiver.taken == Counter({f"r{n}": 1 for n in range(512) if n not in bad})
    assert span_batch.delivered == 512 - len(bad)


def test_a_record_that_is_refused_now_and_then_is_tried_again_before_it_is_left_out():
    alone = Counter[str]()

    def refuse(spans: list[str]) -> Outcome | None:
        alone.update(spans if len(spans) == 1 else [])
        return Outcome.REFUSED if "r3" in spans and alone["r3"] < TRIES else None

    span_batch, receiver = batch(8), Receiver(refuse)

    assert drive(span_batch, receiver) is Progress.DONE
    assert span_batch.refused == {}
    assert receiver.taken["r3"] == 1


def test_a_receiver_that_refuses_everything_loses_nothing():
    span_batch, receiver = batch(512), Receiver(lambda _: Outcome.REFUSED)

    assert drive(span_batch, receiver) is Progress.STUCK
    assert span_batch.refused == {}
    assert receiver.sends <= 130  # it is not pestered with every single record


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


def test_refused_records_are_waited_for_once_a_round_however_many_they_are():
    poison = {f"r{n}" for n in range(0, 60, 2)}
    receiver = Receiver(lambda spans: Outcome.REFUSED if poison & set(spans) else None)
    span_batch, pauses = batch(120), 0
    while not span_batch.done:
        pauses += span_batch.send_next(receiver.send) is Progress.PAUSE

    assert set(span_batch.refused) == poison
    assert 0 < pauses < TRIES


def test_a_batch_without_spans_is_done_at_once():
    assert SpanBatch([], 7, unsampled=3).done
