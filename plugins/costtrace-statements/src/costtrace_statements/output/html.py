"""Documents as HTML that prints well: one file, no script, nothing fetched. Pure.

Names of tenants and models come from clients: each text goes through `clean` (nothing that steers, no bidi overrides)
and is escaped, in text and in attributes, and a Content-Security-Policy forbids whatever would get through.
"""

from html import escape

from costtrace.reports.output.render import clean
from costtrace.reports.output.tables import Line, Table
from costtrace_statements.output.document import Document

_STYLE = """
@page { size: A4 landscape; margin: 14mm 12mm }
* { box-sizing: border-box }
body { font: 13px/1.45 "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1a1a1a; margin: 2rem auto;
  max-width: 72rem; padding: 0 1.5rem }
h1 { font-size: 1.6rem; margin: 0 }
.sub { color: #555; margin: .2rem 0 1.4rem; font-size: 1rem }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; break-after: avoid }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0 0 1rem }
dt { color: #555 } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
thead { display: table-header-group }
th { text-align: left; font-weight: 600; border-bottom: 1.5px solid #1a1a1a; vertical-align: bottom }
th, td { padding: .25rem .55rem } td { border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
th:first-child, td:first-child { padding-left: 0 } th:last-child, td:last-child { padding-right: 0 }
.r { text-align: right; white-space: nowrap }
tr { break-inside: avoid } tr.strong td { font-weight: 600; border-top: 1.5px solid #1a1a1a; border-bottom: 0 }
.note { color: #555; font-size: .9em; margin: .3rem 0 0 }
@media print { body { margin: 0; max-width: none; padding: 0; font-size: 10px } }
"""


def as_html(document: Document) -> str:
    """The document as one HTML file."""
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in document.facts)
    body = "".join(_table(table) for table in document.tables if table.lines)
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in document.notes)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<title>{_text(document.title)}, {_text(document.subtitle)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{_text(document.title)}</h1>\n<p class="sub">{_text(document.subtitle)}</p>\n<dl>{facts}</dl>\n'
        f"{body}\n{notes}</body></html>\n"
    )


def _table(table: Table[Line]) -> str:
    sides = ['class="r"' if column.right else "" for column in table.columns]
    head = "".join(
        f"<th {side}>{_text(column.heading)}</th>" for side, column in zip(sides, table.columns, strict=True)
    )
    rows = []
    for line in table.lines:
        cells = "".join(
            f"<td {side}>{_text(column.show(line))}</td>" for side, column in zip(sides, table.columns, strict=True)
        )
        strong = ' class="strong"' if table.is_total(line) else ""
        rows.append(f"<tr{strong}>{cells}</tr>\n")
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in table.notes)
    return (
        f"<section><h2>{_text(table.title)}</h2><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody></table>{notes}</section>\n"
    )


def _text(value: str) -> str:
    return escape(clean(value), quote=True)
