"""The route of a request, by its path."""

import pytest
from costtrace_vllm.server_side.routes import WORK, route_of


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/completions", "completions"),
        ("/prefix/v1/chat/completions/", "chat/completions"),
        ("/v1/responses", "responses"),
        ("/v1/rerank", "rerank"),
        ("/v1/whatever-a-client-writes", "other"),
        ("/v1/chat/completions/../x", "other"),
        ("/", "other"),
        ("", ""),
    ],
)
def test_a_route_is_one_of_a_few_whatever_a_client_asks_for(path, route):
    assert route_of(path) == route
    assert route in {*WORK, "chat/completions", "other", ""}
