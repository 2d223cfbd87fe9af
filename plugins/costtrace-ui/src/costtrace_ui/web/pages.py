"""The live pages: what is on each, from what was read of the ledger. Pure."""

from collections.abc import Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import NS_PER_HOUR, NS_PER_S, UJ_PER_J, amount, show_amount, show_seconds
from costtrace.core.wall_time import moment, show_time
from costtrace.ledger.answers import Ended, Period, Request, Used
from costtrace.ledger.verify.lines import Discrepancy
from costtrace.reports.output import svg
from costtrace.reports.output.tables import AnyTable, Column, Row, Table
from costtrace.reports.requests.explain import Explanation, Measure
from costtrace.reports.requests.tables import detail_table, list_table
from costtrace.reports.usage.summary import Line, summarize
from costtrace.reports.usage.summary_tables import shares_table, summary_tables
from costtrace_ui.live import figures as live
from costtrace_ui.live.figures import Look
from costtrace_ui.live.views import VIEWS, as_table, show_count, show_span
from costtrace_ui.web.frame import Page, form, html_table, in_order, json_link, link, request_link, section, text, tile

_SEARCH = 'aria-label="Search" placeholder="request, tenant, model, engine or trace id"'
MEDIAN = "the median of {:,} requests of this tenant and model"


class Course(NamedTuple):
    """What one currency's cost was in a bucket of time."""

    begin_ns: int
    currency: str
    requests_nano: int | None
    """None: unknown, in part or altogether; likewise the next."""
    everything_nano: int | None


class Asked(NamedTuple):
    """What the address asks for."""

    over: str
    words: str = ""
    tenant: str = ""
    model: str = ""
    sort: str = "ended"


def when(period: Period, zone: tzinfo, now_ns: int) -> str:
    """The period in words, and how old its end is."""
    if period.since_ns >= period.until_ns:
        return "No window has closed yet: the first closes a minute after the agent's start, by default."
    begin, end = (moment(ns, zone).strftime("%Y-%m-%d %H:%M:%S") for ns in period)
    return f"{begin} to {end} {zone.tzname(None) or zone}, {show_span(max(0, now_ns - period.until_ns))} ago"


def overview(found: Look, course: Sequence[Course], width_ns: int, asked: Asked, zone: tzinfo) -> Page:
    """Who spends what, and on what."""
    body = f'<ul class="tiles">{"".join(_tiles(found))}</ul>'
    body += f'<div class="charts">{"".join(_charts(found, course, width_ns, zone))}</div>'
    for view in VIEWS[:2]:
        key = view.filters
        links = {view.fields[0].heading: lambda row, shown, key=key: _to_requests(row, shown, key, asked.over)}
        body += section(view.title, html_table(as_table(view, found), links, most=15))
    dearest = in_order(as_table(VIEWS[5], found), ("request", "cost"))
    body += section(dearest.title, html_table(dearest, {"request": request_link}, most=8))
    return Page("", "Overview", body, asked.over, simulated=any(device.simulated for device in found.devices))


def _to_requests(row: Row, shown: str, key: str, over: str) -> str:
    if row["kind"] != "request" or not row["name"]:
        return shown
    return f'<a href="{link("requests", **{key: str(row["name"]), "over": over})}">{shown}</a>'


def _tiles(found: Look) -> list[str]:
    tiles = []
    for line in live.totals(found):
        if not line.currency:
            continue
        cost, rate = line.cost_nano, "unknown"
        if cost is not None and found.span_ns:
            rate = f"{amount(cost) * NS_PER_HOUR / Decimal(found.span_ns):,.2f} {line.currency}/h"
        more = " and more that is unpriced" if line.cost_unknown_ns else ""
        shown = show_amount(cost, line.currency)
        tiles.append(tile("cost, with idle", rate, f"{shown} in this time{more}", cost))
    whole = sum(row.gpu_ns for row in found.used)
    busy = sum(row.gpu_ns for row in found.used if row.kind == "request")
    idle = sum(row.gpu_ns for row in found.used if row.kind == "idle")
    output = sum(row.output_tokens for row in found.ended)
    span_ns = found.span_ns
    energy = live.per_token_uj(found.served)
    tiles += [
        tile(
            "output tokens", f"{show_count(output * NS_PER_S / span_ns)} /s" if span_ns else "-", f"{output:,} in all"
        ),
        tile(
            "energy per output token",
            "unknown" if energy is None else f"{show_count(energy / UJ_PER_J)} J",
            "of requests whose energy is known in full",
        ),
        tile(
            "devices busy",
            f"{100 * busy / whole:.1f} %" if whole else "-",
            f"idle {100 * idle / whole:.1f} %" if whole else "",
        ),
        tile("requests", f"{sum(row.requests for row in found.ended):,}", f"ended; running: {len(found.running):,}"),
        tile("devices", f"{len(found.devices):,}", _watts(found)),
    ]
    return tiles


def _rate(count: int, span_ns: int) -> str:
    return f"{show_count(count * NS_PER_S / span_ns)} /s" if span_ns else "-"


def _watts(found: Look) -> str:
    powers = [row["power_mw"] for row in live.devices(found)]
    known = [power for power in powers if isinstance(power, int)]
    if not known:
        return "power unknown"
    rest = f" of {len(known)}, unknown of {len(powers) - len(known)}" if len(known) < len(powers) else ""
    return f"{show_count(sum(known) / 1_000)} W{rest}"


def _charts(found: Look, course: Sequence[Course], width_ns: int, zone: tzinfo) -> list[str]:
    charts = []
    for currency in sorted({one.currency for one in course if one.currency}):
        points = [one for one in course if one.currency == currency]
        charts.append(_cost_chart(found.period, points, currency, width_ns, zone))
    used = [row._replace(keys=()) for row in found.used]
    table = shares_table(summarize((), used, (), zone))
    if any(share.whole_ns for share in table.lines):
        parts = [
            svg.ChartPart(name, ns / whole_ns, f"{100 * ns / whole_ns:.1f} %") for name, ns, whole_ns in table.lines
        ]
        words = ", ".join(f"{part.name} {part.text}" for part in parts)
        chart = svg.stacked_bar("use", "Where the device time went", words, parts)
        charts.append(section("Where the device time went", f"<figure>{chart}</figure>"))
    return charts


def _cost_chart(period: Period, points: Sequence[Course], currency: str, width_ns: int, zone: tzinfo) -> str:
    def hourly(nano: int | None) -> float | None:
        return None if nano is None else float(amount(nano) * NS_PER_HOUR / Decimal(width_ns))

    places = [(point.begin_ns - period.since_ns) / width_ns for point in points]
    series = [
        svg.Series("with idle", [(x, hourly(p.everything_nano)) for x, p in zip(places, points, strict=True)]),
        svg.Series("requests", [(x, hourly(p.requests_nano)) for x, p in zip(places, points, strict=True)]),
    ]
    high = max((y for one in series for _, y in one.points if y is not None), default=1.0)
    last = max(1.0, float(max(places)))
    form_of = "%H:%M:%S" if period.until_ns - period.since_ns < NS_PER_HOUR // 6 else "%H:%M"
    form_of = form_of if period.until_ns - period.since_ns < 30 * NS_PER_HOUR else "%m-%d"
    at = [last * k / 4 for k in range(5)]
    ticks = [(x, moment(round(period.since_ns + x * width_ns), zone).strftime(form_of)) for x in at]
    title = f"Cost by the hour, {currency}"
    words = "Each point is the mean over a stretch of time. A gap: the cost is unknown there, or in part."
    name = f"cost-{''.join(char for char in currency if char.isalnum())}"
    x, y = svg.Axis("", ticks, 0.0, last), svg.nice_axis(f"{currency} per hour", high)
    chart = svg.line_chart(name, title, words, x, y, series, [])
    return section(title, f"<figure>{chart}<figcaption>{text(words)}</figcaption></figure>")


def tenants(period: Period, used: Sequence[Used], ended: Sequence[Ended], asked: Asked, zone: tzinfo) -> Page:
    """`costtrace report` by tenant, by model and by engine, of sums by all three."""
    body = ""
    for place, by in enumerate(live.KEYS):
        summary = summarize(
            (by,),
            [row._replace(keys=(row.keys[place],)) for row in used],
            [row._replace(keys=(row.keys[place],)) for row in ended],
            zone,
        )
        usage, per_million, _ = summary_tables(summary, "")
        usage = in_order(_named(usage, by), (by, "cost", "energy", "GPU time", "requests"))
        body += section(f"By {by}", html_table(usage._replace(title=f"Usage and cost by {by}")))
        if by == "tenant":
            body += section(per_million.title, html_table(_named(per_million, by)))
    begin, end = (moment(ns, zone).isoformat(timespec="microseconds") for ns in period)
    command = f"costtrace report --by tenant --since {begin} --until {end}"
    body += f'<p class="note">The same figures, exact: <code>{text(command)} --format json</code></p>'
    return Page("tenants", "Tenants, models, engines", body, asked.over, simulated=any(row.simulated for row in used))


def _named(table: Table[Line], by: str) -> Table[Line]:
    """The table with one column for whose a line is and what it is of."""

    def name(line: Line) -> str:
        kind = line.kind
        what = "" if kind == "request" else f"{kind}: {line.reason}" if line.reason else kind
        return ", ".join(part for part in (*line.keys, what) if part)

    return table._replace(
        columns=[Column(by, name, right=False), *(c for c in table.columns if c.heading not in {"", by})]
    )


def requests(found: Sequence[Request], asked: Asked, orders: Sequence[str], limit: int, zone: tzinfo) -> Page:
    """Single requests, those that were searched for."""
    options = "".join(f"<option{' selected' if name == asked.sort else ''}>{name}</option>" for name in orders)
    fields = [
        f'<input name="q" type="search" value="{text(asked.words)}" {_SEARCH}>',
        f'<input name="tenant" value="{text(asked.tenant)}" aria-label="Tenant" placeholder="tenant, exactly">',
        f'<input name="model" value="{text(asked.model)}" aria-label="Model" placeholder="model, exactly">',
        f'<select name="sort" aria-label="Sort by">{options}</select>',
    ]
    first = ("request", "cost", "tenant", "model", "ended", "GPU time", "output tok")
    table = in_order(list_table(found, None, "Requests", zone), first)
    more = f"At most {limit} are shown." if len(found) == limit else ""
    body = form("requests", fields, {"over": asked.over})
    body += html_table(table._replace(notes=[*table.notes, *([more] if more else [])]), {"request": request_link})
    query = {"q": asked.words, "tenant": asked.tenant, "model": asked.model, "sort": asked.sort}
    simulated = any(request.simulated for request in found)
    return Page("requests", "Requests", body, asked.over, simulated=simulated, query=query)


def request(found: Sequence[Explanation], zone: tzinfo) -> Page:
    """One request: why it cost what it did, part by part, and all its fields."""
    body = ""
    for part in found:
        own = part.request
        told = "".join(f"<li>{text(sentence)}</li>" for sentence in part.sentences)
        usual = part.usual
        compared = MEDIAN.format(usual.requests) if usual is not None and usual.requests > 1 else ""
        note = f'<p class="note">Grey: {compared}.</p>' if compared else ""
        body += section(f"{own.tenant}, {own.model}, on engine {own.engine_id}", f'<ul class="why">{told}</ul>')
        body += section("Beside the usual one", _bars(part.measures) + note)
        detail = detail_table(own, zone)
        body += section("All of it", html_table(detail) + json_link(own.record_id))
    first = found[0].request
    title = f"Request {first.request_id}"
    cost = show_amount(first.cost_nano, first.currency or None)
    ended = f"ended {show_time(first.ended_ns, zone)}, cost {cost} without idle"
    return Page("requests/one", title, body, "", ended, any(part.request.simulated for part in found))


def _bars(measures: Sequence[Measure]) -> str:
    lines = []
    for group in ([m for m in measures if m.name != "queue"], [m for m in measures if m.name == "queue"]):
        longest = max([*(m.own_ns or 0 for m in group), *(m.usual_ns or 0 for m in group), 1])
        for one in group:
            own = 0 if one.own_ns is None else 100 * one.own_ns / longest
            usual = 0 if one.usual_ns is None else 100 * one.usual_ns / longest
            shown = "unknown" if one.own_ns is None else show_seconds(one.own_ns)
            beside = "" if one.usual_ns is None else f"<small>usually {text(show_seconds(round(one.usual_ns)))}</small>"
            lines.append(
                f"<dt>{text(one.name)}</dt><dd>"
                '<svg viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
                f'<rect class="own" width="{own:.2f}" height="10"/>'
                f'<rect class="usual" y="12" width="{usual:.2f}" height="5"/></svg></dd>'
                f'<dd class="figure">{text(shown)}{beside}</dd>'
            )
    return f'<dl class="bars">{"".join(lines)}</dl>'


def devices(found: Look, asked: Asked) -> Page:
    """Devices and engines."""
    body = section("Devices", html_table(as_table(VIEWS[3], found))) + section(
        "Engines", html_table(as_table(VIEWS[2], found))
    )
    running = as_table(VIEWS[4], found)
    body += section(running.title, html_table(running, most=50))
    return Page("devices", "Devices", body, asked.over, simulated=any(device.simulated for device in found.devices))


def balance(tables: Sequence[AnyTable], named: Sequence[Discrepancy], total: int, checked: str) -> Page:
    """The trial balance, as `costtrace verify` has it."""
    if total:
        body = f'<p class="bad" role="status">NOT in balance: {total:,} discrepancies</p><ul class="why">'
        for item in named:
            body += (
                f"<li><b>{text(item.row)}</b>, {text(item.field)}: expected {text(item.expected)}, found "
                f"{text(item.found)}. {text(item.meaning)}</li>"
            )
        body += "</ul>"
    else:
        body = '<p class="good" role="status">in balance</p>'
    body += "".join(section(table.title, html_table(table)) for table in tables if table.lines)
    return Page("balance", "Trial balance", body, "", checked)
