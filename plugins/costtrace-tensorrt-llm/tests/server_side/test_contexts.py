"""Contexts that wait for their first batch."""

from costtrace_tensorrt_llm.server_side import contexts
from costtrace_tensorrt_llm.server_side.contexts import Contexts


def test_what_waits_for_its_first_batch_is_bounded():
    known = Contexts()
    for name in range(contexts.CAPACITY + 500):
        known.remember("text", [name], name)
    assert len(known._by_id) == contexts.CAPACITY
