"""The ids of a request."""

import pytest
from costtrace_vllm import request_context


@pytest.mark.parametrize(
    ("external", "pooling", "shown"),
    [
        ("chatcmpl-own_1", False, "chatcmpl-own_1"),
        ("cmpl-mine-2-3-0", False, "cmpl-mine-2-3"),
        ("cmpl-b-15-0123456789abcdef-beam-1", False, "cmpl-b"),
        ("embd-x-1", True, "embd-x"),
        ("embd-x-prompt-0-chunk-2", True, "embd-x"),
        ("7", False, "7"),
    ],
)
def test_the_response_id_is_what_the_client_sees(external, pooling, shown):
    assert request_context.response_id(external, pooling=pooling) == shown
