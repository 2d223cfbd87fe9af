"""Keys of a request's halves. What else a translator does is tested through the double."""

from costtrace_tensorrt_llm.rank_side import batches
from costtrace_tensorrt_llm.rank_side.translate import Translator
from costtrace_tensorrt_llm.request_context import RequestContext, encode

from costtrace.capture.recorder import NOTE
from costtrace.core.events import COUNTED_PROMPT, HANDS_OVER


def test_the_two_halves_of_a_disaggregated_request_have_one_key_and_both_ids():
    def added(role, disagg, context):
        facts = batches.Facts(5, 1, 10, 1, -1, role, disagg, context)
        recorded = [(NOTE, 1, batches.ADDED, facts, "")]
        return Translator("m").translate(recorded)[0]

    first, second = added("prefill", 777, -1), added("decode", 777, 777)
    assert first.request_key == second.request_key == "disagg-777"
    assert (first.role, second.role) == ("prefill", "decode")
    assert (first.elsewhere, second.elsewhere) == (HANDS_OVER, COUNTED_PROMPT)
    assert second.labels == {"disagg_request_id": "777", "ctx_request_id": "777"}
    again = added("decode", 888, 777)  # tried again: the orchestrator made a new id for this half only
    assert again.request_key == "disagg-777"
    assert added("prefill", -1, -1).request_key == "trtllm-1", "ids of older versions are no names beyond one server"


def test_under_dynamo_both_halves_have_the_key_of_its_request_and_no_other():
    def added(role, disagg):
        facts = batches.Facts(5, 1, 10, 1, -1, role, disagg, disagg)
        text = encode(RequestContext("dynamo:uuid-1", "acme", "header"))
        return Translator("m").translate([(NOTE, 1, batches.ADDED, facts, text)])[0]

    for one in (added("prefill", 777), added("decode", 778)):
        assert (one.request_key, one.request_id, one.tenant) == ("dynamo:uuid-1", "uuid-1", "acme")


def test_a_huge_number_of_a_client_makes_no_long_text():
    facts = batches.Facts(5, 1, 10, 1, -1, "decode", 10**4_000, 10**4_000)
    (added,) = Translator("m").translate([(NOTE, 1, batches.ADDED, facts, "")])
    assert (len(added.request_key), *map(len, added.labels.values())) == (273, 273, 273)


def test_a_request_without_a_context_is_the_tenants_of_the_setting_on_the_first_rank():
    notes = [(NOTE, 1, batches.ADDED, batches.Facts(5, 1, 10, 1, -1, "", -1, -1), "")]
    for rank, paid in ((0, ("shared", "default:no-context")), (1, ("", "unobserved"))):
        (added,) = Translator("m", rank=rank, tenant_default="shared").translate(notes)
        assert (added.tenant, added.tenant_source) == paid
