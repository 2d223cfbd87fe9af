"""A prompt's beginning that several tenants have in common, on a real vLLM: one computes it, all of them pay."""

import time

import pytest
from home import WINDOW_S
from http_client import COMPLETIONS, completion, tenant
from served_vllm import serving

pytestmark = [pytest.mark.heavy, pytest.mark.vllm, pytest.mark.timeout(240)]

SHARED = "Everybody begins with these words. " * 12
TENANTS = ("first", "second", "third", "alone")
VARIABLES = {"COSTTRACE_PREFIX_SHARING": "tree"}


@pytest.fixture(scope="module")
def served(vllm_environment, tiny_model, tmp_path_factory):
    """The tenants' rows, of requests that were in one window, and the home with all the rest."""
    with serving(vllm_environment, tiny_model, tmp_path_factory.mktemp("prefixes"), variables=VARIABLES) as served:
        for attempt in range(10):  # until all of it falls into one window
            time.sleep(WINDOW_S - time.time() % WINDOW_S + 0.05)
            window = time.time() // WINDOW_S
            replies = {
                name: served.ask(
                    COMPLETIONS, completion(f"{name if name == 'alone' else 'all'} {attempt} {SHARED}", 2), tenant(name)
                )
                for name in TENANTS
            }
            if time.time() // WINDOW_S == window:
                break
        served.home.wait_for(list(replies.values()))
        yield {name: served.home.usage(reply.id) for name, reply in replies.items()}, served.home


def test_who_found_the_prefix_pays_for_it_as_who_computed_it_does(served):
    rows, _ = served
    first, second, third, alone = (rows[name] for name in TENANTS)
    assert first["cached_tokens"] < second["cached_tokens"] == third["cached_tokens"]
    assert first["prefix_ns"] < 0 < second["prefix_ns"] == third["prefix_ns"]
    assert alone["prefix_ns"] == 0
    # Three users of what was found: two thirds of its cost have moved, a third to each of the two others.
    assert abs(first["prefix_ns"] + second["prefix_ns"] + third["prefix_ns"]) <= 3
    computed, shared = first["input_tokens"] - first["cached_tokens"], second["cached_tokens"] - first["cached_tokens"]
    own_ns = first["prefill_ns"] - first["prefix_ns"]
    assert second["prefix_ns"] == pytest.approx(own_ns * shared / computed / 3, rel=0.02)


def test_the_bill_adds_up_and_the_engine_says_that_paths_are_recorded(served):
    _, home = served
    assert home.rows('SELECT settings FROM engine WHERE settings LIKE \'%"prefix_paths": "recorded"%\'')
    home.verify()
    home.check_open_books()
