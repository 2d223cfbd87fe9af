"""The parts of the live pages: frame, sections, tiles, tables, links. Pure; cleans and escapes every text."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote, urlencode

from costtrace.reports.output import svg
from costtrace.reports.output.render import clean
from costtrace.reports.output.tables import Line, Row, Table

NAVIGATION = (
    ("", "Overview"),
    ("tenants", "Tenants"),
    ("requests", "Requests"),
    ("devices", "Devices"),
    ("balance", "Trial balance"),
)
STRETCHES = ("5m", "1h", "6h", "24h", "7d", "all")
EXACT = ("cost_nano", "gpu_ns", "energy_uj", "output_tokens", "requests", "cost_unknown_gpu_ns")
"""Fields of a row that its ``tr`` has as exact integers in ``data-`` attributes, for programs and tests."""

SHORT = 28
"""Characters up to which a first cell is kept on one line."""

CellLink = Callable[[Row, str], str]
"""Makes the HTML of a linked cell from its row and its escaped text."""


class Style(NamedTuple):
    """The pages' style and script, and the content policy that allows nothing else."""

    css: str
    script: str

    @property
    def policy(self) -> str:
        """The Content-Security-Policy."""
        return (
            f"default-src 'none'; style-src '{_hash(self.css)}'; script-src '{_hash(self.script)}'; "
            "img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )


class Page(NamedTuple):
    """One page, before `framed` adds head, navigation and footer."""

    path: str
    title: str
    body: str
    over: str
    """The stretch of time that is shown, one of `STRETCHES`; '' where the page has none."""
    subtitle: str = ""
    simulated: bool = False
    query: Mapping[str, str] = {}
    """The other parameters of the address, kept when the stretch changes."""
    every_ms: int = 0
    """The interval at which a browser reads it again; 0: never."""


def text(value: str) -> str:
    """*value* escaped for HTML text and attributes, without control characters."""
    return escape(clean(value), quote=True)


def link(path: str, **query: str) -> str:
    """A link to a page of this server, escaped for an attribute; empty parameters are left out."""
    parameters = urlencode({key: value for key, value in query.items() if value})
    return escape(f"/{path}{'?' + parameters if parameters else ''}", quote=True)


def request_link(row: Row, shown: str) -> str:
    """A cell that links to the request's own page."""
    return f'<a href="/requests/{quote(str(row["record_id"]), safe="")}">{shown}</a>'


def json_link(record_id: str) -> str:
    """A note that links to the request as JSON."""
    return f'<p class="note"><a href="/v1/requests/{quote(record_id, safe="")}">As JSON, exact</a></p>'


def framed(page: Page, style: Style) -> str:
    """The whole HTML document of a page."""
    tabs = "".join(
        f'<a href="{link(path, over=page.over)}"{_current(path == page.path.partition("/")[0])}>{name}</a>'
        for path, name in NAVIGATION
    )
    stretch = "".join(
        f'<a href="{link(page.path, **{**page.query, "over": over})}"{_current(over == page.over)}>{over}</a>'
        for over in STRETCHES
    )
    times = f'<nav class="times" aria-label="Stretch of time">{stretch}</nav>' if page.over else ""
    freeze = '<button id="freeze" type="button" aria-pressed="false" hidden>freeze</button>' if page.every_ms else ""
    flag = '<p class="flag-sim">SIMULATED devices: no figure here measures real hardware</p>' if page.simulated else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{text(page.title)} - costtrace</title><link rel="icon" href="data:,"><style>{style.css}</style></head>'
        f'<body>{svg.patterns()}<header class="bar"><a class="skip" href="#main">to the content</a>'
        f'<nav class="tabs" aria-label="Pages"><b>costtrace</b>{tabs}</nav></header>\n'
        f'<main id="main" data-every="{page.every_ms}"><div class="title"><div><h1>{text(page.title)}</h1>'
        f'<p class="soft">{text(page.subtitle)}</p></div><div class="controls">{times}{freeze}</div></div>{flag}\n'
        f"{page.body}</main>\n<footer><p>Read from the ledger, which is the bill. Nothing here changes it.</p></footer>"
        f"<script>{style.script}</script></body></html>\n"
    )


def _current(yes: bool) -> str:  # noqa: FBT001 - whether it is the current one
    return ' aria-current="page"' if yes else ""


def section(title: str, body: str) -> str:
    """A section under its heading."""
    return f"<section><h2>{text(title)}</h2>{body}</section>\n"


def tile(what: str, figure: str, how: str, exact: int | None = None) -> str:
    """A figure with its name and what it is made of; *exact*: the same as an integer, for programs."""
    shown = text(figure) if exact is None else f'<data value="{exact}">{text(figure)}</data>'
    return (
        f'<li><span class="what">{text(what)}</span><span class="figure">{shown}</span>'
        f'<span class="how">{text(how)}</span></li>'
    )


def in_order(table: Table[Line], headings: Sequence[str]) -> Table[Line]:
    """The table with the columns of *headings* first, which a narrow screen shows without scrolling."""
    position = {heading: number for number, heading in enumerate(headings)}
    return table._replace(columns=sorted(table.columns, key=lambda column: position.get(column.heading, len(position))))


def html_table(table: Table[Line], links: Mapping[str, CellLink] | None = None, *, most: int = 200) -> str:
    """A table that scrolls sideways where it is too wide; *links*: by column heading; *most*: rows that are shown."""
    if not table.lines:
        return '<p class="note">Nothing here in this stretch of time.</p>'
    table = table._replace(columns=[c for c in table.columns if any(c.show(line) for line in table.lines)])
    heads = "".join(f'<th scope="col"{_side(right=c.right)}>{text(c.heading)}</th>' for c in table.columns)
    body = "".join(_line(table, line, links or {}) for line in table.lines[:most])
    hidden_rows = len(table.lines) - most
    notes = [*table.notes, *([f"{hidden_rows:,} more lines are not shown."] if hidden_rows > 0 else [])]
    note = f'<p class="note">{text(" ".join(notes))}</p>' if notes else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(table.title)}">'
        f'<table data-name="{text(table.name)}"><caption class="hidden">{text(table.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _line(table: Table[Line], line: Line, links: Mapping[str, CellLink]) -> str:
    row = table.exact(line)
    cells = []
    for position, column in enumerate(table.columns):
        shown = text(column.show(line))
        if column.heading in links:
            shown = links[column.heading](row, shown)
        kind = "th" if position == 0 else "td"
        scope = ' scope="row"' if position == 0 else ""
        short = len(column.show(line)) <= SHORT
        css = ' class="short"' if position == 0 and short else _side(right=column.right)
        cells.append(f"<{kind}{scope}{css}>{shown}</{kind}>")
    exact = "".join(f' data-{key.replace("_", "-")}="{row[key]}"' for key in EXACT if isinstance(row.get(key), int))
    kind = str(row.get("kind", "request"))
    css = ' class="sum"' if kind in {"everything", "all requests"} else ' class="soft"' if kind != "request" else ""
    return f'<tr{css} data-kind="{text(kind)}"{exact}>{"".join(cells)}</tr>\n'


def _side(*, right: bool) -> str:
    return ' class="num"' if right else ""


def form(path: str, fields: Sequence[str], hidden: Mapping[str, str]) -> str:
    """A search form: GET, so all it sends is in the address; *hidden*: parameters that it keeps."""
    kept = "".join(
        f'<input type="hidden" name="{text(key)}" value="{text(value)}">' for key, value in hidden.items() if value
    )
    return f'<form class="search" method="get" action="/{path}">{"".join(fields)}{kept}<button>show</button></form>'


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
