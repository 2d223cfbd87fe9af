"""A document for people: facts and tables, in the order in which they are read. HTML and PDF are made of it. Pure."""

from typing import NamedTuple

from costtrace.reports.output.tables import Table


class Document(NamedTuple):
    """What a statement says, whatever form it gets."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    """Name and value, each one line."""
    tables: list[Table]
    """Rows whose key `strong` is true are totals."""
    notes: list[str]
