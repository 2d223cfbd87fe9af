"""The cost of an answer, estimated: by means that add up, that its tenant may see, or not at all."""

import os
import stat
import time

import pytest
from cost_means import means
from hypothesis import given
from hypothesis import strategies as st

from costtrace.capture.node_files import cost_estimates
from costtrace.capture.node_files.cost_estimates import MODEL, TENANT, EstimateReader, Used, estimate
from costtrace.core import guard

COUNT = st.integers(1, 10**12)


# -- the arithmetic --------------------------------------------------------------------------------------------------


@given(COUNT, COUNT, COUNT, COUNT, COUNT)
def test_at_its_own_tokens_a_mean_is_exactly_what_they_cost(prefilled, decoded, inputs, cached, outputs):
    per_token = means(
        input_tokens=inputs + cached, cached_tokens=cached, output_tokens=outputs,
        prefill_nano=prefilled, decode_nano=decoded,
    )  # fmt: skip
    for cached_tokens in (cached, None):
        assert estimate(per_token, Used(inputs + cached, cached_tokens, outputs)).nano == prefilled + decoded


def test_tokens_known_to_be_cached_cost_nothing_and_else_the_mean_share_is_taken_as_cached():
    assert estimate(means(), Used(100, 80, 10)).nano == 20 * 10 + 10 * 50
    assert estimate(means(), Used(100, 0, 10)).nano == 100 * 10 + 10 * 50
    assert estimate(means(), Used(100, None, 10)).nano == 100 * 6 + 10 * 50


@pytest.mark.parametrize(
    ("per_token", "used"),
    [
        (means(output_tokens=0), Used(10, None, 1)),
        (means(input_tokens=0), Used(10, None, 1)),
        (means(cached_tokens=1_000), Used(10, 3, 1)),
        (means(), Used(10, 11, 1)),
    ],
    ids=["no answers", "no prompts", "no prompt that was not cached", "more cached than there were"],
)
def test_tokens_that_no_mean_covers_are_unknown_and_not_0(per_token, used):
    assert estimate(per_token, used) is None


def test_energy_that_is_not_known_is_not_stated():
    assert "energy_j" not in estimate(means(decode_uj=None), Used(10, None, 1)).details()
    assert estimate(means(), Used(1_000, None, 100)).details()["energy_j"] == 110e-6


def test_the_details_say_that_it_is_an_estimate_of_what_and_whether_a_device_is_simulated():
    details = estimate(means(), Used(1_000, None, 100)).details()
    assert details == {
        "estimate": True,
        "amount": "0.000011000",
        "currency": "USD",
        "gpu_time_s": 1.1e-06,
        "basis": "mean per token of 12 requests of this tenant for this model; idle is not in it",
        "since": "2026-09-21T14:13:20Z",
        "until": "2026-09-21T14:14:20Z",
        "energy_j": 110e-6,
    }
    assert estimate(means(simulated=True), Used(1, None, 1)).details()["simulated"] is True
    assert "of all tenants for" in estimate(means(tenant=""), Used(1, None, 1)).details()["basis"]


# -- the file --------------------------------------------------------------------------------------------------------


def read(home, scope=TENANT, model="m", tenant="acme"):
    return EstimateReader(home, scope).means(model, tenant)


def test_a_tenant_sees_its_own_means_and_nobody_elses(tmp_path):
    cost_estimates.write(tmp_path, TENANT, [means(), means(tenant="globex", requests=99)], time.time())
    assert read(tmp_path) == means()
    assert read(tmp_path, tenant="globex").requests == 99
    assert read(tmp_path, tenant="initech") is None
    assert read(tmp_path, tenant="") is None
    assert read(tmp_path, model="other") is None
    assert stat.S_IMODE(cost_estimates.path_below(tmp_path).stat().st_mode) == 0o600


def test_the_means_of_a_model_are_only_for_a_server_that_shows_those(tmp_path):
    cost_estimates.write(tmp_path, MODEL, [means(tenant="")], time.time())
    assert read(tmp_path, MODEL, tenant="anybody") == means(tenant="")
    assert read(tmp_path, TENANT) is None
    assert read(tmp_path, TENANT, tenant="") is None
    cost_estimates.write(tmp_path, TENANT, [means()], time.time())
    assert read(tmp_path, MODEL) is None


@pytest.mark.parametrize("age_s", [cost_estimates.VALID_S + 1, -60], ids=["too old", "of the future"])
def test_what_the_agent_wrote_is_valid_for_a_while_only(tmp_path, age_s):
    cost_estimates.write(tmp_path, TENANT, [means()], time.time() - age_s)
    assert read(tmp_path) is None


@pytest.mark.swallows
@pytest.mark.parametrize("content", ["{", "[]", '{"written_s": 1}', '{"written_s":1,"scope":"tenant","means":[["m"]]}'])
def test_a_damaged_file_gives_no_means_and_is_counted(tmp_path, content):
    cost_estimates.path_below(tmp_path).write_text(content)
    assert read(tmp_path) is None
    assert guard.failures["cost_estimates"] == 1


def test_a_file_that_changes_or_is_deleted_is_noticed_and_one_that_stays_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_estimates, "LOOK_EVERY_S", 0)
    reader, path = EstimateReader(tmp_path, TENANT), cost_estimates.path_below(tmp_path)
    assert reader.means("m", "acme") is None
    assert not guard.failures, "no file is no error"
    for number, count in enumerate((20, 30), 1):
        cost_estimates.write(tmp_path, TENANT, [means(requests=count)], time.time())
        os.utime(path, ns=(number, number))
        assert reader.means("m", "acme").requests == count
    path.write_text("{")
    os.utime(path, ns=(2, 2))
    assert reader.means("m", "acme").requests == 30
    path.unlink()
    assert reader.means("m", "acme") is None
