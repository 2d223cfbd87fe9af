"""The tables of the names of spans, attributes and metrics, and their page of documentation."""

from collections import Counter

from telemetry_page import telemetry_markdown

from costtrace.core import semconv


def test_names_are_unique_and_each_metrics_attribute_has_a_label():
    assert max(Counter(m.name for m in semconv.METRICS).values()) == 1
    assert max(Counter(m.prometheus for m in semconv.METRICS).values()) == 1
    for metric in semconv.METRICS:
        labels = [attribute.label for attribute in metric.attributes]
        assert all(labels), metric.name
        assert len(set(labels)) == len(labels), metric.name


def test_the_documentation_has_every_name():
    text = telemetry_markdown()

    for thing in (*semconv.SPANS, *semconv.attributes(), *semconv.METRICS):
        assert f"`{thing.name}`" in text
    assert text == telemetry_markdown()


def test_no_second_or_joule_has_a_name_under_gen_ai_usage():
    under = {a.name: a.unit for a in semconv.attributes() if a.name.startswith("gen_ai.usage.")}

    assert set(under.values()) == {"{token}", "USD"}
