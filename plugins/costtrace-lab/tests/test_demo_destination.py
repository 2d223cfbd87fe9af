"""The demo says where its spans went."""

import sqlite3

import pytest
from costtrace_lab.demo.destination import destination, passed_on, sink_variables, spans_line

from costtrace.core.errors import ConfigError
from costtrace.telemetry.otel_environment import Target
from costtrace.telemetry.span_shipper import consumer

SINK = "http://127.0.0.1:40001"
SEEN = (SINK, "/out/spans.jsonl", 24)
MINE = "http://me:secret@127.0.0.1:4318/v1"


def line(environ, counted=(24, 24)):
    return spans_line(destination(sink_variables(SINK, environ), environ), SEEN, counted)


@pytest.mark.parametrize(
    "environ", [{}, {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}]
)
def test_spans_go_to_the_demos_own_file_where_nobody_has_named_a_receiver(environ):
    assert destination(sink_variables(SINK, environ), environ) == Target("http/protobuf", SINK)
    assert line(environ) == "/out/spans.jsonl   (24 spans, received by OTLP)"


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_a_receiver_of_the_users_own_is_named_with_what_went_there(name):
    said = line({name: MINE})
    assert said.startswith("sent to http://127.0.0.1:4318, which you have named: 24 of 24 requests. None are kept")
    assert "secret" not in said
    assert "20 of 24 requests; agent.log" in line({name: MINE}, (20, 24))
    assert "sent to localhost:4317," in line({name: "localhost:4317"})


@pytest.mark.parametrize("environ", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_spans_that_are_switched_off_went_nowhere(environ):
    assert line(environ).startswith("none are sent")
    assert line(environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": MINE}).startswith("none are sent")


def test_a_protocol_that_is_none_is_an_error_before_anything_starts():
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": MINE, "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}
    with pytest.raises(ConfigError, match="smoke"):
        destination(sink_variables(SINK, environ), environ)


def test_what_the_agent_passed_on_is_counted_in_its_ledger():
    where = Target("http/protobuf", MINE)
    with sqlite3.connect(":memory:") as ledger:
        ledger.executescript("CREATE TABLE usage (usage_id); CREATE TABLE cursor (consumer, usage_id)")
        ledger.executemany("INSERT INTO usage VALUES (?)", [(number,) for number in range(1, 25)])

        def query(sql):
            return ledger.execute(sql).fetchall()

        assert passed_on(where, query) == (0, 24)
        ledger.execute("INSERT INTO cursor VALUES (?, 20)", (consumer(where),))
        assert passed_on(where, query) == (20, 24)
    assert passed_on(where, lambda _: []) == (0, 0)
