"""A document for people: facts and tables, in the order in which they are read. HTML and PDF are made of it. Pure."""

from typing import NamedTuple

from costtrace.reports.output.tables import AnyTable


class Document(NamedTuple):
    """Title, facts, tables and notes, whatever form they get."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    """Name and value, each one line."""
    tables: list[AnyTable]
    notes: list[str]
