"""The trace context among the headers of a request."""

import pytest

from costtrace.capture.request_context import TextCodec, traceparent_of, valid_traceparent

TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (TRACE, True),
        (TRACE[:-2] + "00", True),
        ("cc" + TRACE[2:] + "-more", True),
        (TRACE + "-more", False),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        ("00-" + "0" * 32 + TRACE[35:], False),
        (TRACE[:36] + "0" * 16 + "-01", False),
        ("", False),
    ],
)
def test_a_traceparent_is_kept_as_it_is_or_not_at_all(value, kept):
    header = (b"Traceparent", value.encode())
    assert traceparent_of([(b"accept", b"x"), header]) == valid_traceparent(value) == (value if kept else "")
    assert traceparent_of([header, header]) == ""


def test_a_text_that_is_nested_too_deeply_is_no_value():
    assert TextCodec(list[int]).decode("[1," + "[" * 100_000) is None


def test_a_lone_surrogate_does_not_keep_a_value_from_being_sent():
    codec = TextCodec(list[str])
    assert codec.decode(codec.encode(["a", "\ud800"])) == ["a", "?"]
