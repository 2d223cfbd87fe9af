"""`costtrace bench` against a real vLLM: every request of the generator is found in the ledger, and priced from it."""

import json
import os
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner
from costtrace_board.figures import rounded
from served_vllm import serving

from costtrace.cli.app import cli

pytestmark = [pytest.mark.heavy, pytest.mark.vllm]
AIPERF = Path(os.environ.get("COSTTRACE_AIPERF") or Path(__file__).parents[2] / "build" / "aiperf" / "bin" / "aiperf")


@pytest.fixture(scope="module", params=["vllm", "aiperf"])
def benched(request, vllm_environment, tiny_model, tmp_path_factory):
    if request.param == "aiperf" and not AIPERF.exists():
        pytest.skip(f"there is no {AIPERF}: run python tools/setup_others.py aiperf")
    keep = os.environ.get("COSTTRACE_TEST_SCREENSHOTS")
    folder = Path(keep) / f"bench-{request.param}" if keep else tmp_path_factory.mktemp("bench")
    with serving(vllm_environment, tiny_model, tmp_path_factory.mktemp("served")) as world:
        words = [
            *("bench", "--url", world.url, "--model", "tiny-model", "--tokenizer", str(tiny_model)),
            *("--concurrency", "1,4", "--input-len", "24", "--output-len", "12", "--requests", "4"),
            *("--vllm", str(vllm_environment / "venv" / "bin" / "vllm"), "--home", str(world.home.path)),
            *("--generator", request.param, "--aiperf", str(AIPERF)),
            *("--out", str(folder), "--format", "json"),
        ]
        began_ns = time.time_ns()
        # AIPerf takes a folder for a tokenizer only where the hub is not declared to be offline.
        env = {"HF_HUB_OFFLINE": "1" if request.param == "vllm" else None}
        done = CliRunner().invoke(cli, words, env=env, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        rows = world.home.rows(
            "SELECT request_id, cost_nano, gpu_ns, input_tokens, output_tokens FROM usage WHERE ended_ns > ?", began_ns
        )
    return folder, json.loads(done.output)["operating_points"], rows


def written_down(folder, users):
    """What tells the requests of a run, as its generator wrote it down."""
    lines = folder / f"aiperf_c{users}" / "profile_export.jsonl"
    if lines.exists():
        return [json.loads(line)["metadata"]["x_request_id"] for line in lines.read_text().splitlines()]
    return [f"-c{users}-"]


def test_every_request_of_the_generator_is_joined_once_and_its_cost_is_the_ledgers(benched):
    folder, points, rows = benched
    assert [(point["concurrency"], point["requests"]) for point in points] == [(1, 4), (4, 16)]
    for point in points:
        marks = written_down(folder, point["concurrency"])
        mine = [row for row in rows if any(mark in row["request_id"] for mark in marks)]
        assert len({row["request_id"] for row in mine}) == len(mine) == point["requests"]
        assert sum(row["cost_nano"] for row in mine) == point["cost_nano"]
        assert sum(row["gpu_ns"] for row in mine) == point["gpu_ns"]
        tokens = sum(row["output_tokens"] for row in mine)
        assert tokens == 12 * point["requests"]
        due = Fraction(point["cost_nano"] * 1_000_000, tokens * 10**9)
        assert Decimal(point["cost_per_million_tokens"]) == rounded(due, 9)


def test_more_users_share_their_steps(benched):
    # Whether that makes a token cheaper is a matter of time, which a loaded machine without a GPU cannot show.
    _, (one, four), _ = benched
    assert Decimal(four["mean_batch"]) > Decimal(one["mean_batch"])


def test_the_rows_are_in_inferencex_form_and_can_be_imported_again(benched):
    folder, points, _ = benched
    files = sorted(str(path) for path in folder.glob("agg_*.json"))
    assert len(files) == 2
    words = ["benchmarks", "import", *files, "--tier", "mine=3.37", "--basis", "output", "--format", "json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    figures = {row["concurrency"]: row for row in json.loads(done.output)["figures"]}
    for point in points:
        again = figures[point["concurrency"]]
        assert again["format"] == "inferencex"
        assert float(again["tokens_per_s_per_gpu"]) == pytest.approx(float(point["tokens_per_s_per_gpu"]))


def test_the_page_has_both_charts_and_loads_nothing(benched):
    folder, _, _ = benched
    text = (folder / "pareto.html").read_text()
    assert text.count('<svg class="chart"') == 2
    assert "output tokens/s that one user sees" in text
    assert "USD per million output tokens" in text
    assert "http://" not in text
    assert (folder / "pareto.html").stat().st_mode & 0o777 == 0o600
