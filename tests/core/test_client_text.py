"""Texts of clients: cut where they enter, and fit to be written whatever they hold."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costtrace.core.client_text import MOST, is_cut, short, writable
from costtrace.core.events import SequenceAdded


def test_a_text_of_a_client_has_256_characters_and_then_its_hash():
    assert short("x" * MOST) == "x" * MOST
    cut = short("x" * 300)
    assert (len(cut), cut[: MOST + 1]) == (273, "x" * MOST + "#")
    assert short(cut) == cut
    assert is_cut(cut)
    assert not is_cut("x" * 273)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("", "x")])
def test_texts_that_differ_at_their_end_or_in_length_stay_apart(one, other):
    assert short("x" * 25_000_000 + one) != short("x" * 25_000_000 + other)


@given(st.text(max_size=600))
def test_cut_once_is_cut_for_good(text):
    assert short(short(text)) == short(text)
    assert len(short(text)) <= 273


def test_what_no_file_can_hold_becomes_a_question_mark():
    added = SequenceAdded(1, 2, "\ud800", "\x05abc", "k\x1b[2J", "é", 3, "m", "ant", "header", labels={"a\n": "\x7f"})
    plain = msgspec.convert(writable([added]), list[SequenceAdded])[0]
    assert (plain.sequence_id, plain.request_id, plain.request_key, plain.prompt_key) == ("?", "?abc", "k?[2J", "é")
    assert plain.labels == {"a?": "?"}
    assert msgspec.structs.replace(plain, slot=5).slot == 5
