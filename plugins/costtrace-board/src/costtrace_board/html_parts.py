"""The parts that the board's HTML pages are made of: the document with its content policy, sections, tiles, tables."""

import base64
import hashlib
from html import escape

from costtrace_ui import svg

from costtrace.reports.output.tables import Line, Table

MAX_ROWS = 40
"""Rows of a table that a page shows; JSON has all."""
SHORT = 24
"""Characters up to which a cell is kept on one line."""
SIMULATED = '<p class="flag-sim">SIMULATED traffic or devices: no figure here measures real hardware</p>'


def document(title: str, body: str, style: str, script: str) -> str:
    """An HTML document whose content policy allows only *style* and *script*, by their hashes."""
    policy = f"default-src 'none'; style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
    if script:
        policy += f"; script-src '{_hash(script)}'"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body>",
        svg.patterns(),
        body,
        f"<script>{script}</script></body></html>" if script else "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def section(title: str, body: str, css: str = "") -> str:
    """A section under its heading."""
    klass = f' class="{css}"' if css else ""
    return f"<section{klass}><h2>{escape(title)}</h2>{body}</section>"


def tile(what: str, figure: str, how: str) -> str:
    """A figure with its name above and what it is made of below."""
    return (
        f'<li><span class="what">{escape(what)}</span><span class="figure">{escape(figure)}</span>'
        f'<span class="how">{escape(how)}</span></li>'
    )


def html_table(table: Table[Line], caption: str = "", *, hidden: bool = False) -> str:
    """A table whose first column is its row headers; *hidden*: its caption is for screen readers only."""
    lines = list(table.lines)
    cut = len(lines) - MAX_ROWS
    if cut > 0:
        lines = [*lines[: MAX_ROWS - 1], lines[-1]]
    head = "".join(f'<th scope="col"{_num(column.right)}>{escape(column.heading)}</th>' for column in table.columns)
    body = "".join(_html_row(table, line) for line in lines)
    notes = [*table.notes, *([f"{cut} more lines are in JSON."] if cut > 0 else [])]
    note = f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""
    name = caption or table.title
    css = ' class="hidden"' if hidden else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<caption{css}>{escape(name)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _html_row(table: Table[Line], line: Line) -> str:
    cells = []
    for position, column in enumerate(table.columns):
        value = escape(column.show(line))
        short = len(value) <= SHORT
        mark = _num(column.right) if column.right or not short else ' class="short"'
        cells.append(f'<th scope="row"{mark}>{value}</th>' if position == 0 else f"<td{mark}>{value}</td>")
    css = ' class="sum"' if table.exact(line).get("model") == "all" else ""
    return f"<tr{css}>{''.join(cells)}</tr>"


def _num(right: bool) -> str:  # noqa: FBT001 - a column's own flag
    return ' class="num"' if right else ""
