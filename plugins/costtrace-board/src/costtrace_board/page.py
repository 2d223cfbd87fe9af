"""The board as one HTML page: opens from a file, loads nothing, follows light and dark, prints on A4.

Every name that comes from a ledger or a file is escaped. A content policy allows the page's own style and script by
their hashes and nothing else. The ladder's chart has a table of its figures; those of all charts are in
`costtrace board --format json`.
"""

from decimal import Decimal
from fractions import Fraction
from html import escape

from costtrace_ui import svg

from costtrace.core.wall_time import moment
from costtrace.reports.output.row_tables import Table
from costtrace.reports.usage.summary_tables import shares_table
from costtrace_board import charts, roi
from costtrace_board.board_tables import (
    Board,
    annotations_table,
    cost_table,
    growth_table,
    price_per_gpu_hour,
    show_money,
    transactions_table,
)
from costtrace_board.cells import group
from costtrace_board.figures import rounded, significant
from costtrace_board.html_parts import SIMULATED, document, html_table, section, tile
from costtrace_board.ladder import Ladder
from costtrace_board.tables import ladder_table

SHOWN_SERIES = 3


def page(board: Board, style: str, script: str) -> str:
    """The whole page, with *style* (`page.css` of costtrace-ui) and *script* (`board.js`) in it."""
    parts = [
        _header(board),
        "<main>",
        _tiles(board),
        _trend(board),
        section("By model, fleet and month", html_table(cost_table(board)), css="long"),
        _use(board),
        _ladder(board.ladder, board.ladder_why_not),
        _transactions(board),
        _calculator(board),
        _reading(),
        "</main>",
        _footer(board),
    ]
    return document(f"Cost per million tokens, {board.period}", "\n".join(parts), style, script)


def points_page(title: str, charts: str, points: Table, style: str) -> str:
    """Operating points of a server, as charts and as a table."""
    simulated = any(row["simulated"] for row in points.rows)
    body = (
        f"<header><h1>{escape(title)}</h1>{SIMULATED if simulated else ''}</header>"
        f"<main>{charts}{section(points.title, html_table(points, hidden=True))}</main>"
        "<footer><p>Made by costtrace from its ledger and a load generator's result.</p></footer>"
    )
    return document(title, body, style, "")


def _footer(board: Board) -> str:
    return (
        f"<footer><p>Made by costtrace from its ledger, {escape(board.made)}. The same figures: "
        "<code>costtrace board --format json</code>. How they are made: docs/board.md and docs/method.md.</p></footer>"
    )


def _header(board: Board) -> str:
    racks = f"{board.gpus} device{'s' if board.gpus != 1 else ''}" + (
        f" ({board.gpus / board.gpus_per_rack:g} x {board.gpus_per_rack})" if board.gpus >= board.gpus_per_rack else ""
    )
    flag = SIMULATED if board.simulated else ""
    return (
        f'<header><h1>Cost per million tokens</h1><p class="soft">{escape(board.period)} &middot; {racks} &middot; '
        f"{escape(board.currency or 'no price')}</p>{flag}</header>"
    )


def shown(value: Fraction | None, unit: str, digits: int = 3) -> str:
    """A figure with its unit; ``unknown`` for None."""
    return "unknown" if value is None else f"{significant(value, digits)} {unit}".rstrip()


def _tiles(board: Board) -> str:
    total = board.whole
    if total is None:
        return "<p>The ledger holds nothing in this period.</p>"
    used = total.direct.gpu_ns - total.direct.wasted_ns
    all_ns = total.direct.gpu_ns + total.idle.gpu_ns
    cost_nano = total.cost_nano(with_idle=True)
    tiles = [
        tile(
            "per million output tokens",
            shown(total.per_million("output", with_idle=True), board.currency),
            f"with idle; without: {shown(total.per_million('output', with_idle=False), board.currency)}",
        ),
        tile(
            "per million total tokens",
            shown(total.per_million("total", with_idle=True), board.currency),
            f"with idle; per million input: {shown(total.per_million('input', with_idle=True), board.currency)}",
        ),
        tile(
            "used device time",
            f"{100 * used / all_ns:.1f} %" if all_ns else "unknown",
            f"idle, overhead, unobserved: {100 * total.idle.gpu_ns / all_ns:.1f} %" if all_ns else "",
        ),
        tile(
            "energy per output token",
            shown(total.joules_per_token("output", with_idle=True), "J"),
            f"with idle; without: {shown(total.joules_per_token('output', with_idle=False), 'J')}",
        ),
        tile(
            "cost per request",
            "unknown"
            if cost_nano is None or not total.direct.requests
            else shown(Fraction(cost_nano, total.direct.requests * 10**9), board.currency),
            f"with idle; {total.direct.requests:,} requests",
        ),
        tile("mean price of a GPU-hour", shown(price_per_gpu_hour(total), board.currency), "as it was charged"),
    ]
    rows = cost_table(board).rows
    if (board.prices or board.revenues) and rows:
        last = rows[-1]
        for what, key in (("revenue", "revenue"), ("margin", "margin"), ("revenue per rack", "revenue_per_rack")):
            value = last[key]
            figure = f"{show_money(value)} {board.currency}" if isinstance(value, Decimal) else "unknown"
            scaled = f", {board.gpus_per_rack} GPUs of {board.gpus}" if key == "revenue_per_rack" else ""
            tiles.append(tile(what, figure, f"{board.price_source}{scaled}"))
    return f'<ul class="tiles">{"".join(tiles)}</ul>'


def _trend(board: Board) -> str:
    by_day = group([cell for cell in board.days if cell.currency == board.currency], ("model", "day"))
    days = sorted({cell.period for cell in by_day})
    if not days:
        return ""
    day_number = {day: float(number) for number, day in enumerate(days)}
    tokens: dict[str, int] = {}
    for cell in by_day:
        tokens[cell.model] = tokens.get(cell.model, 0) + cell.tokens("output")
    models = sorted(tokens, key=lambda model: -tokens[model])
    series = []
    for model in models[:SHOWN_SERIES]:
        for name, with_idle in (("with idle", True), ("without", False)):
            points = [
                (day_number[cell.period], _float(cell.per_million("output", with_idle=with_idle)))
                for cell in by_day
                if cell.model == model
            ]
            series.append(svg.Series(f"{model} {name}", points))
    high = max((y for line in series for _, y in line.points if y is not None), default=1.0)
    every = max(1, len(days) // 6)
    ticks = [(float(k), days[k]) for k in range(0, len(days), every)]
    x = svg.Axis("day", ticks, 0.0, max(1.0, float(len(days) - 1)))
    y = svg.nice_axis(f"{board.currency} per million output tokens", high)
    marks = [
        svg.Mark(day_number[day], number)
        for number, change in enumerate(board.annotations, 1)
        if (day := f"{moment(change.day_ns, board.zone):%Y-%m-%d}") in day_number
    ]
    restriction = f" The {SHOWN_SERIES} models with the most output tokens." if len(models) > SHOWN_SERIES else ""
    description = f"Lines by day, {days[0]} to {days[-1]}; numbers mark changes that are listed below.{restriction}"
    chart = svg.line_chart("trend", "Cost per million output tokens by day", description, x, y, series, marks)
    notes = html_table(annotations_table(board)) if board.annotations else ""
    growth = growth_table(board)
    body = f"<figure>{chart}<figcaption>{escape(description)}</figcaption></figure>{notes}"
    if growth.rows:
        body += html_table(growth, caption="How cost grew with tokens")
    return section("Trend, and what changed", body)


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _use(board: Board) -> str:
    table = shares_table(board.summary)
    if not any(share.whole_ns for share in table.lines):
        return ""
    parts = [svg.ChartPart(name, ns / whole_ns, f"{100 * ns / whole_ns:.1f} %") for name, ns, whole_ns in table.lines]
    description = ", ".join(f"{part.name} {part.text}" for part in parts)
    chart = svg.stacked_bar("use", "Where the device time went", description, parts)
    return section("Where the device time went", f"<figure>{chart}</figure>")


def _ladder(ladder: Ladder | None, why_not: str) -> str:
    title = "From the benchmark to production"
    if ladder is None:
        return section(title, f'<p class="note">{escape(why_not)}</p>', css="page")
    bars = [charts.Bar(ladder.start_name, 0.0, float(ladder.start), significant(ladder.start), "end")]
    level = ladder.start
    for step in ladder.steps:
        if step.factor is None or step.after is None:
            bars.append(charts.Bar(step.name, None, None, "unknown", "unknown"))
            continue
        bars.append(
            charts.Bar(step.name, float(level), float(step.after), f"\u00d7 {significant(step.factor)}", step.how)
        )
        level = step.after
    bars.append(charts.Bar(ladder.end_name, 0.0, float(ladder.end), significant(ladder.end), "end"))
    high = max(bar.high for bar in bars if bar.high is not None)
    y = svg.nice_axis(f"{ladder.currency} per million {ladder.basis} tokens", max(high * 1.05, high))
    description = (
        f"Waterfall from {significant(ladder.start)} to {significant(ladder.end)} {ladder.currency} per million "
        f"{ladder.basis} tokens: {significant(ladder.gap)} times. Filled: measured. Slanted: stated. Dotted: the rest "
        "that no step accounts for. A question mark: unknown, and not 1."
    )
    chart = charts.waterfall("ladder", title, description, y, bars)
    steps = html_table(ladder_table(ladder), hidden=True)
    body = f"<figure>{chart}<figcaption>{escape(description)}</figcaption></figure>{steps}"
    return section(title, body, css="page")


def _transactions(board: Board) -> str:
    table = transactions_table(board)
    return section(table.title, html_table(table, hidden=True)) if table.rows else ""


FIELDS = {
    "purchase_price": "purchase price of the hardware",
    "gpus": "GPUs",
    "per_gpu_hour": "total cost of a GPU-hour",
    "tokens_per_s": "tokens/s sold by all GPUs together while busy",
    "price_per_million": "price of a million of these tokens",
    "years": "years",
    "utilisation": "utilisation, 0 to 1",
    "price_decline": "yearly decline of the token price, 0 to 1",
}
RESULTS = {
    "tokens": ("million tokens sold", 0),
    "revenue": ("revenue", 0),
    "total_cost": ("total cost", 0),
    "over_purchase_price": ("revenue over purchase price", 2),
    "over_total_cost": ("revenue over total cost", 2),
    "cost_per_million": ("total cost per million tokens", 4),
    "margin": ("revenue less total cost", 0),
}


def _calculator(board: Board) -> str:
    assumed, computed = board.assumptions, roi.compute(board.assumptions)
    inputs = "".join(
        f'<div><label for="in-{name}">{escape(label)}<small>{escape(board.assumption_sources.get(name, ""))}</small>'
        f'</label><input id="in-{name}" name="{name}" type="number" min="0" step="any" '
        f'value="{getattr(assumed, name)}"></div>'
        for name, label in FIELDS.items()
    )
    results = ""
    for name, (label, places) in RESULTS.items():
        value = getattr(computed, name)
        if name == "tokens":
            value = computed.tokens / 1_000_000
        text = "unknown" if value is None else f"{rounded(value, places):,f}"
        results += f'<div><span>{escape(label)}</span><output id="roi-{name}">{text}</output></div>'
    unit = board.currency or "currency units"
    note = (
        f"Amounts in {unit}. Revenue over purchase price is what headlines show; revenue over total cost has site, "
        "power and staff in it. Prices fall by the decline each year. Change any assumption: nothing leaves the page."
    )
    return section(
        "Return on investment",
        f'<form id="roi" autocomplete="off"><div class="calc">{inputs}</div><h3 class="soft">comes to</h3>'
        f'<div class="calc" aria-live="polite">{results}</div></form><p class="note">{escape(note)}</p>',
    )


def _reading() -> str:
    terms = (
        (
            "token basis",
            "Output, input or total (both) tokens. One cost is divided by either: two bases cannot be compared.",
        ),
        ("without idle", "What the requests themselves used, by their share of each engine step."),
        ("with idle", "Idle, overhead and unobserved time of the engines too: this is what the devices cost."),
        ("unknown", "No price, or no sensor. It is not zero."),
    )
    listed = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in terms)
    return section("How to read it", f'<dl class="two">{listed}</dl>')
