"""What all live pages have in common: head, navigation, tables, tiles. Pure; every text is cleaned and escaped here."""

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
"""Fields of a row that stand on its line as exact integers, for programs and tests."""

SHORT = 28
"""Characters of a line's name that are kept together."""

Cell = Callable[[Row, str], str]
"""Makes a link of a cell: from the row and the escaped text."""


class Style(NamedTuple):
    """The page's own style and script, and the policy that allows nothing else."""

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
    """One page, before it is framed."""

    path: str
    title: str
    body: str
    over: str
    """The stretch of time that is shown; '' where the page has none."""
    subtitle: str = ""
    simulated: bool = False
    query: Mapping[str, str] = {}
    """What else is asked for, kept when the stretch changes."""
    every_ms: int = 0
    """It is read again so often; 0: never."""


def text(value: str) -> str:
    """*value* for HTML, in text and in attributes: nothing in it steers."""
    return escape(clean(value), quote=True)


def link(path: str, **query: str) -> str:
    """An address on this server, escaped for an attribute."""
    asked = urlencode({key: value for key, value in query.items() if value})
    return escape(f"/{path}{'?' + asked if asked else ''}", quote=True)


def request_link(row: Row, shown: str) -> str:
    """A cell that leads to the request's own page."""
    return f'<a href="/requests/{quote(str(row["record_id"]), safe="")}">{shown}</a>'


def json_link(record_id: str) -> str:
    """Where the request is as JSON."""
    return f'<p class="note"><a href="/v1/requests/{quote(record_id, safe="")}">As JSON, exact</a></p>'


def framed(page: Page, style: Style) -> str:
    """The whole page."""
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
    """A part of a page, under its heading."""
    return f"<section><h2>{text(title)}</h2>{body}</section>\n"


def tile(what: str, figure: str, how: str, exact: int | None = None) -> str:
    """A figure with its name and what it is made of; *exact*: as an integer."""
    shown = text(figure) if exact is None else f'<data value="{exact}">{text(figure)}</data>'
    return (
        f'<li><span class="what">{text(what)}</span><span class="figure">{shown}</span>'
        f'<span class="how">{text(how)}</span></li>'
    )


def in_order(table: Table[Line], headings: Sequence[str]) -> Table[Line]:
    """The table with the columns of these headings first: what is looked for first, on a phone too."""
    place = {heading: number for number, heading in enumerate(headings)}
    return table._replace(columns=sorted(table.columns, key=lambda column: place.get(column.heading, len(place))))


def html_table(table: Table[Line], links: Mapping[str, Cell] | None = None, *, most: int = 200) -> str:
    """A table that scrolls inside itself where it is too wide; *links* by a column's heading."""
    if not table.lines:
        return '<p class="note">Nothing here in this stretch of time.</p>'
    table = table._replace(columns=[c for c in table.columns if any(c.show(line) for line in table.lines)])
    heads = "".join(f'<th scope="col"{_side(right=c.right)}>{text(c.heading)}</th>' for c in table.columns)
    body = "".join(_line(table, line, links or {}) for line in table.lines[:most])
    left = len(table.lines) - most
    notes = [*table.notes, *([f"{left:,} more lines are not shown."] if left > 0 else [])]
    said = f'<p class="note">{text(" ".join(notes))}</p>' if notes else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(table.title)}">'
        f'<table data-name="{text(table.name)}"><caption class="hidden">{text(table.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{said}"
    )


def _line(table: Table[Line], line: Line, links: Mapping[str, Cell]) -> str:
    row = table.exact(line)
    cells = []
    for place, column in enumerate(table.columns):
        shown = text(column.show(line))
        if column.heading in links:
            shown = links[column.heading](row, shown)
        kind = "th" if place == 0 else "td"
        scope = ' scope="row"' if place == 0 else ""
        short = len(column.show(line)) <= SHORT
        css = ' class="short"' if place == 0 and short else _side(right=column.right)
        cells.append(f"<{kind}{scope}{css}>{shown}</{kind}>")
    exact = "".join(f' data-{key.replace("_", "-")}="{row[key]}"' for key in EXACT if isinstance(row.get(key), int))
    kind = str(row.get("kind", "request"))
    css = ' class="sum"' if kind in {"everything", "all requests"} else ' class="soft"' if kind != "request" else ""
    return f'<tr{css} data-kind="{text(kind)}"{exact}>{"".join(cells)}</tr>\n'


def _side(*, right: bool) -> str:
    return ' class="num"' if right else ""


def form(path: str, fields: Sequence[str], hidden: Mapping[str, str]) -> str:
    """A form that asks for a page: GET, nothing is sent that is not in the address."""
    kept = "".join(f'<input type="hidden" name="{text(key)}" value="{text(v)}">' for key, v in hidden.items() if v)
    return f'<form class="search" method="get" action="/{path}">{"".join(fields)}{kept}<button>show</button></form>'


def _hash(words: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()
