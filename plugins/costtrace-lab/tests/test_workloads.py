import pytest
from costtrace_lab.simulator.servegen import ServeGenOptions
from costtrace_lab.simulator.workload import Arrival, read_workload
from public_data import DATA, needs

from costtrace.core.errors import CosttraceError


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_an_azure_trace_is_read_to_the_tenth_of_a_microsecond(tmp_path):
    path = written(
        tmp_path / "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.6805901,9,0",
    )
    first, second = read_workload(path)
    assert first == Arrival(0.0, 374, 44)
    assert second.at_s == pytest.approx(1.0000001, abs=1e-6)
    assert second.output_tokens == 1  # an engine always makes one


def test_a_plain_csv_may_name_tenants_and_is_put_in_order(tmp_path):
    path = written(tmp_path / "own.csv", "at_s,prompt_tokens,output_tokens,tenant\n6,10,5,bee\n2,20,7,\n")
    assert read_workload(path, speed=2) == [Arrival(0.0, 20, 7), Arrival(2.0, 10, 5, "bee")]
    assert len(read_workload(path, requests=1)) == 1


def test_mooncake_names_the_blocks_of_a_prompt(tmp_path):
    line = '{"timestamp": 1500, "input_length": 900, "output_length": 3, "hash_ids": [4, 9]}\n'
    assert read_workload(written(tmp_path / "mooncake.jsonl", line)) == [Arrival(0.0, 900, 3, "default", (4, 9))]


def servegen(folder):
    written(folder / "c-0-trace.csv", "0,0,0,,0,0\n600,2.0,1.0,Gamma,1.0,0.5\n1200,1.0,1.0,Weibull,1.0,1.0\n")
    written(
        folder / "c-0-dataset.json",
        '{"0": {"input_tokens": "{5: 0.25, 7: 0.75}", "output_tokens": "{3: 1.0}"},'
        ' "21600": {"input_tokens": "{}", "output_tokens": "{}"}}',
    )
    return folder


def test_a_servegen_client_is_a_tenant_with_its_own_rate_and_lengths(tmp_path):
    arrivals = read_workload(servegen(tmp_path), servegen_options=ServeGenOptions(seconds=600))
    assert {arrival.tenant for arrival in arrivals} == {"c-0"}
    assert 1_000 < len(arrivals) < 1_400  # 2 per second; the seed is fixed
    assert {arrival.output_tokens for arrival in arrivals} == {3}
    assert 0.70 < sum(arrival.prompt_tokens == 7 for arrival in arrivals) / len(arrivals) < 0.80
    assert arrivals == read_workload(tmp_path, servegen_options=ServeGenOptions(seconds=600))
    assert arrivals != read_workload(tmp_path, servegen_options=ServeGenOptions(seconds=600, seed=2))
    assert 250 < len(read_workload(tmp_path, servegen_options=ServeGenOptions(seconds=600, rate=0.5))) < 350


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "when,what\n1,2\n", "has the columns when, what"),
        ("b.csv", "at_s,prompt_tokens,output_tokens\n1,x,2\n", "line 2 of"),
        ("c.csv", "at_s,prompt_tokens,output_tokens\n1,0,2\n", "has no prompt"),
        ("d.csv", "at_s,prompt_tokens,output_tokens\n", "has no requests"),
        ("e.jsonl", "{]\n", "line 1 of"),
    ],
)
def test_what_is_wrong_with_a_workload_is_said(tmp_path, name, text, words):
    with pytest.raises(CosttraceError, match=words):
        read_workload(written(tmp_path / name, text))


def test_an_empty_directory_is_not_a_workload(tmp_path):
    with pytest.raises(CosttraceError, match="no ServeGen client"):
        read_workload(tmp_path)
    with pytest.raises(CosttraceError, match="cannot read"):
        read_workload(tmp_path / "nowhere.csv")


@needs("traces/azure_llm_2023_conv.csv")
def test_the_azure_conversation_trace_is_read():
    arrivals = read_workload(DATA / "traces/azure_llm_2023_conv.csv")
    assert len(arrivals) == 19_366
    assert sum(arrival.prompt_tokens for arrival in arrivals) / len(arrivals) == pytest.approx(1_155, abs=1)


@needs("traces/servegen")
def test_five_real_clients_are_read():
    arrivals = read_workload(DATA / "traces/servegen", servegen_options=ServeGenOptions(seconds=60, rate=1.0))
    assert len({arrival.tenant for arrival in arrivals}) == 5


@needs("traces/mooncake_conversation.jsonl")
def test_the_mooncake_trace_shares_prefixes():
    arrivals = read_workload(DATA / "traces/mooncake_conversation.jsonl", requests=100)
    assert all(arrival.prefix[0] == arrivals[0].prefix[0] for arrival in arrivals)
