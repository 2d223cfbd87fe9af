"""The file of refusals: whom it names is refused, and whatever breaks, nobody else is."""

import stat
import time

import pytest

from costtrace.capture.node_files import refusals
from costtrace.capture.node_files.refusals import EVERYBODY, Refusal, RefusalReader
from costtrace.core import guard

WHY = Refusal("acme-november", int(time.time()) + 3_600)


def refused(home, tenant):
    return RefusalReader(home).refusal(tenant)


def test_a_tenant_in_the_file_is_refused_and_no_other(tmp_path):
    refusals.write(tmp_path, {"acme": WHY}, time.time())
    assert refused(tmp_path, "acme") == WHY
    assert refused(tmp_path, "globex") is None
    assert stat.S_IMODE(refusals.path_below(tmp_path).stat().st_mode) == 0o600


def test_a_spent_budget_of_all_refuses_all(tmp_path):
    refusals.write(tmp_path, {EVERYBODY: WHY}, time.time())
    assert refused(tmp_path, "globex") == WHY


@pytest.mark.parametrize("age_s", [refusals.VALID_S + 1, -60], ids=["too old", "of the future"])
def test_what_the_agent_wrote_is_valid_for_a_while_only(tmp_path, age_s):
    refusals.write(tmp_path, {"acme": WHY}, time.time() - age_s)
    assert refused(tmp_path, "acme") is None


def test_a_period_that_is_over_refuses_nobody_before_the_agent_has_written_again(tmp_path):
    over = Refusal("yesterday", int(time.time()) - 1)
    refusals.write(tmp_path, {"acme": over, EVERYBODY: over, "globex": Refusal("rolling", 0)}, time.time())
    assert refused(tmp_path, "acme") is None
    assert refused(tmp_path, "globex").budget == "rolling"
    refusals.write(tmp_path, {"acme": over, EVERYBODY: WHY}, time.time())
    assert refused(tmp_path, "acme") == WHY, "the budget of all still refuses"


ENDS = ("1e999", str(10**20), "-1")


@pytest.mark.swallows
@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"written_s": 1}',
        '{"written_s": "x", "refused": {}}',
        *(f'{{"written_s": 1, "refused": {{"acme": ["b", {ends}]}}}}' for ends in ENDS),
    ],
)
def test_a_damaged_file_refuses_nobody_and_is_counted(tmp_path, content):
    refusals.write(tmp_path, {"acme": WHY}, time.time())
    refusals.path_below(tmp_path).write_text(content)
    assert refused(tmp_path, "acme") is None
    assert guard.failures["admission"] == 1


def test_no_file_is_no_error(tmp_path):
    assert refused(tmp_path, "acme") is None
    assert not guard.failures
