"""The tests' own trial balance finds what is off: one number of one row, whichever."""

from copy import deepcopy

import pytest
from attributed import WINDOW_NS, attribute
from balance import Books, books_in, books_of, check, check_energy, check_open, check_window_lengths
from costtrace_lab.engines import random_life
from honest_ledger import write


@pytest.fixture(scope="module")
def attributed():
    life = random_life(3, rounds=120)
    return books_of(*attribute({life.engine_id: life.events}))


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    home = tmp_path_factory.mktemp("honest")
    write(home)
    return books_in(home)


def changed(books: Books, table: str, field: str, by: int, **where: str) -> Books:
    """The books with one number of one row changed: the first row where that is a number other than 0."""
    rows = deepcopy(list(getattr(books, table)))
    row = next(row for row in rows if isinstance(row.get(field), int) and row[field] and where.items() <= row.items())
    row[field] += by
    return books._replace(**{table: rows})


def test_books_that_nobody_touched_add_up(attributed):
    check(attributed)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize(
    ("table", "field"),
    [
        *(("postings", field) for field in ("gpu_ns", "prefill_ns", "decode_ns", "window_ns")),
        *(("meter", field) for field in ("request_ns", "idle_ns", "start_ns", "end_ns", "window_ns")),
        *(("usage", field) for field in ("gpu_ns", "prefill_ns", "decode_ns")),
        *(("engines", field) for field in ("started_ns", "ended_ns")),
    ],
)
def test_one_nanosecond_anywhere_is_found(attributed, table, field, by):
    with pytest.raises(AssertionError):
        check(changed(attributed, table, field, by))


def test_a_row_that_is_missing_or_double_is_found(attributed):
    for table in ("postings", "meter", "usage"):
        rows = [row for row in getattr(attributed, table) if row.get("kind", "request") == "request"]
        kept = [row for row in getattr(attributed, table) if row is not rows[0]]
        for broken in (kept, [*getattr(attributed, table), rows[0]]):
            with pytest.raises(AssertionError):
                check(attributed._replace(**{table: broken}))


def test_an_engine_without_devices_that_has_not_ended_is_found(attributed):
    (engine,) = attributed.engines
    bare = engine | {"engine_id": "bare", "devices": ()}
    check(attributed._replace(engines=[engine, bare]))
    with pytest.raises(AssertionError):
        check(attributed._replace(engines=[engine, bare | {"ended_ns": 0}]))


@pytest.mark.parametrize(
    ("table", "field"),
    [*(("postings", field) for field in ("device_nano", "energy_nano", "energy_uj")), ("usage", "cost_nano")],
)
def test_one_nano_unit_or_microjoule_of_a_ledger_is_found(priced, table, field):
    def all_that_holds_while_an_engine_runs(books):
        check_open(books)
        check_energy(books)

    all_that_holds_while_an_engine_runs(priced)
    with pytest.raises(AssertionError):
        all_that_holds_while_an_engine_runs(changed(priced, table, field, 1))


@pytest.mark.parametrize("field", ["device_nano", "energy_nano"])
def test_one_nano_unit_of_idle_time_is_found_though_no_usage_record_has_it(priced, field):
    with pytest.raises(AssertionError):
        check_open(changed(priced, "postings", field, 1, kind="idle"))


def test_a_window_that_is_not_whole_is_found(attributed):
    check_window_lengths(attributed, WINDOW_NS)
    with pytest.raises(AssertionError):
        check_window_lengths(attributed, WINDOW_NS + 1)
