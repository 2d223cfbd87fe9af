import json

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


def lines(path, *rows):
    return written(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def line(timestamp, tokens, names, **more):
    return {"timestamp": timestamp, "input_length": tokens, "output_length": 3, "hash_ids": names, **more}


CHAT = {"chat_id": 1, "parent_chat_id": -1, "type": "text", "turn": 1}


@pytest.mark.parametrize("more", [{}, CHAT], ids=["plain", "with chats"])
def test_a_trace_in_seconds_with_blocks_of_16_is_read_as_it_was_written(tmp_path, more):
    first = line(1.0, 1600, list(range(100)), **more)
    second = line(21.0, 3200, list(range(200)), **more)
    arrivals = read_workload(lines(tmp_path / "qwen.jsonl", first, second))
    assert [arrival.at_s for arrival in arrivals] == [0, 20]
    assert [arrival.block_tokens for arrival in arrivals] == [16, 16]


def test_a_last_block_that_is_not_whole_may_be_left_out_of_small_blocks(tmp_path):
    for names in (range(1, 101), range(1, 102)):
        (arrival,) = read_workload(lines(tmp_path / "qwen.jsonl", line(61.114, 1601, list(names))))
        assert (arrival.block_tokens, arrival.prefix) == (16, tuple(names))


def test_blocks_that_do_not_fit_are_refused_with_the_line(tmp_path):
    path = lines(tmp_path / "w.jsonl", line(0, 1600, list(range(50))))
    with pytest.raises(CosttraceError, match=r"line 1 of .*1,600 tokens in 50 blocks.*--block-tokens \(32 would"):
        read_workload(path)
    (arrival,) = read_workload(path, block_tokens=32, time_unit="s")
    assert (arrival.block_tokens, len(arrival.prefix)) == (32, 50)
    with pytest.raises(CosttraceError, match=r"line 1 of .*blocks of 64"):
        read_workload(path, block_tokens=64)
    cut = lines(tmp_path / "cut.jsonl", line(0, 900, [1, 2]), line(0, 900, [1]))
    with pytest.raises(CosttraceError, match=r"line 2 of .*900 tokens in 1 blocks"):
        read_workload(cut)


def test_a_fraction_needs_a_unit(tmp_path):
    path = lines(tmp_path / "w.jsonl", line(0, 900, [1, 2]), line(0.5, 900, [1, 2]))
    with pytest.raises(CosttraceError, match=r"line 2 of .*--time-unit"):
        read_workload(path)
    assert [arrival.at_s for arrival in read_workload(path, time_unit="ms")] == [0, 0.0005]
    assert [arrival.at_s for arrival in read_workload(path, time_unit="s")] == [0, 0.5]


def test_a_line_without_names_has_no_prefix_and_fits(tmp_path):
    rows = line(0, 1600, list(range(100))), {**line(1, 999, None), "type": "x"}, line(2, 999, [])
    assert [arrival.prefix for arrival in read_workload(lines(tmp_path / "w.jsonl", *rows))][1:] == [(), ()]


@pytest.mark.parametrize("words", [{"block_tokens": 16}, {"time_unit": "s"}])
def test_only_json_lines_have_blocks_and_a_unit(tmp_path, words):
    path = written(tmp_path / "own.csv", "at_s,prompt_tokens,output_tokens\n1,2,3\n")
    with pytest.raises(CosttraceError, match="JSON lines"):
        read_workload(path, **words)
    with pytest.raises(CosttraceError, match="JSON lines"):
        read_workload(servegen(tmp_path), **words)


@pytest.mark.parametrize(
    ("first", "second", "between_s"),
    [
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01+00:00", 0.99007),
        ("2024-05-10 00:00:00", "2024-05-10 00:00:00.5Z", 0.5),
        ("2024-05-10T02:00:00+0200", "2024-05-10 00:00:01", 1.0),
        ("2024-05-10 00:00:00-07:00", "2024-05-10 07:00:00.2500000 +00:00", 0.25),
    ],
)
def test_azure_stamps_with_an_offset_without_one_and_without_a_fraction(tmp_path, first, second, between_s):
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n{first},2162,5\n{second},9,1\n"
    arrivals = read_workload(written(tmp_path / "azure.csv", text))
    assert arrivals[1].at_s == pytest.approx(between_s, abs=1e-6)


@pytest.mark.parametrize("stamp", ["20240510", "2024-W19-5", "2024-05-10", "1715299200", "2024-13-10 00:00:00", ""])
def test_what_is_no_stamp_is_refused_with_its_line(tmp_path, stamp):
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n{stamp},2162,5\n"
    with pytest.raises(CosttraceError, match=r"line 2 of .*not a request"):
        read_workload(written(tmp_path / "azure.csv", text))


@pytest.mark.parametrize(
    "row",
    [
        "1,5,100,20",  # a decimal comma
        *("nan,1,2", "inf,1,2", "1e400,1,2", "1_0,1,2", "\uff11,1,2", "1,true,2", "1,3.9,2", "1,1_000,2"),
        *("1,\uff11\uff12,2", "1,1000000000000000000000,2", "1,2,-1", "1,2,nan", "1,2", "1," + "1" * 140_000 + ",2"),
    ],
)
def test_a_row_of_csv_that_is_no_request_is_refused(tmp_path, row):
    path = written(tmp_path / "own.csv", f"at_s,prompt_tokens,output_tokens\n{row}\n")
    with pytest.raises(CosttraceError, match=r"line 2 of .*own\.csv|workload .*own\.csv"):
        read_workload(path)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 20_000, "[]", "5", "null", "{}", '{"timestamp": NaN, "input_length": 5, "output_length": 1}'),
        '{"timestamp": 1e400, "input_length": 5, "output_length": 1}',
        '{"timestamp": 1, "input_length": 1e999, "output_length": 1}',
        '{"timestamp": 1, "input_length": true, "output_length": 1}',
        '{"timestamp": 1, "input_length": 3.9, "output_length": 1}',
        '{"timestamp": 1, "input_length": 700, "output_length": 1, "hash_ids": "12"}',
        '{"timestamp": 1, "input_length": 700, "output_length": 1, "hash_ids": [1.5, 2]}',
        '{"timestamp": 1, "input_length": 700, "output_length": 1, "hash_ids": [true, 2]}',
        '{"timestamp": 1, "input_length": 700, "output_length": 1, "tenant": "\\ud800"}',
    ],
)
def test_a_json_line_that_is_no_request_is_refused(tmp_path, text):
    with pytest.raises(CosttraceError, match=r"line 1 of .*w\.jsonl"):
        read_workload(written(tmp_path / "w.jsonl", text + "\n"))


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf")])
def test_a_speed_that_is_none_is_refused(tmp_path, speed):
    path = written(tmp_path / "own.csv", "at_s,prompt_tokens,output_tokens\n1,2,3\n")
    with pytest.raises(CosttraceError, match="speed"):
        read_workload(path, speed=speed)


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": float("inf")},
        {"seconds": float("nan")},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"rate": 1e300},
        {"rate": 5e-324},
    ],
)
def test_a_load_of_servegen_that_would_never_end_is_refused(tmp_path, options):
    with pytest.raises(CosttraceError, match=r"--seconds|--rate"):
        read_workload(servegen(tmp_path), servegen_options=ServeGenOptions(**options))


@pytest.mark.parametrize(
    ("trace", "dataset"),
    [
        ("600,inf,1.0,Gamma,1.0,0.5", None),
        ("600,nan,1.0,Gamma,1.0,0.5", None),
        ("600,5e-324,1.0,Gamma,1.0,0.5", None),
        ("nan,2.0,1.0,Gamma,1.0,0.5", None),
        ("600,2.0,1.0,Gamma,nan,0.5", None),
        ("600,2.0,1.0,Gamma,1.0,0", None),
        ("600,2.0,1.0,Weibull,1e-9,1", None),
        ("600,2.0,1.0,Pareto,1.0,0.5", None),
        ("600,2.0,1.0,Gamma,1.0," + "1" * 140_000, None),
        (None, "[]"),
        (None, "[" * 20_000),
        (None, '{"0": "x"}'),
        *(
            (None, json.dumps({"0": {"input_tokens": text, "output_tokens": "{3: 1.0}"}}))
            for text in (
                "[5]",
                "{1e999: 1}",
                "{5: nan}",
                "{5: 1e999}",
                "{5: -1, 6: 2}",
                "{-5: 1}",
                "{5.5: 1}",
                "(" * 5_000,
            )
        ),
    ],
)
def test_a_servegen_client_that_is_none_is_refused(tmp_path, trace, dataset):
    servegen(tmp_path)
    if trace is not None:
        written(tmp_path / "c-0-trace.csv", f"{trace}\n")
    if dataset is not None:
        written(tmp_path / "c-0-dataset.json", dataset)
    with pytest.raises(CosttraceError, match=r"ServeGen client .*c-0-trace\.csv"):
        read_workload(tmp_path)


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
    arrivals = read_workload(DATA / "traces/mooncake_conversation.jsonl")
    assert len(arrivals) == 12_031
    assert {arrival.block_tokens for arrival in arrivals} == {512}
    assert arrivals[-1].at_s == 3_536.999
    arrivals = arrivals[:100]
    assert all(arrival.prefix[0] == arrivals[0].prefix[0] for arrival in arrivals)
