"""The live pages: the contents of each, made from what was read from the ledger. Pure."""

from collections.abc import Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import NamedTuple

from costtrace.core.units import NS_PER_HOUR, NS_PER_S, UJ_PER_J, amount, minor_digits, show_amount, show_seconds
from costtrace.core.wall_time import moment, show_time
from costtrace.ledger.answers import Ended, Period, Request, Used
from costtrace.ledger.verify.lines import Discrepancy
from costtrace.reports.output.tables import AnyTable, Column, Row, Table, brief
from costtrace.reports.requests.explain import Explanation, Measure
from costtrace.reports.requests.tables import detail_table, list_table
from costtrace.reports.usage.summary import Line, summarize
from costtrace.reports.usage.summary_tables import shares_table, summary_tables
from costtrace_ui import svg
from costtrace_ui.live import figures as live
from costtrace_ui.live.figures import Snapshot
from costtrace_ui.live.views import VIEW, as_table, show_count, show_span
from costtrace_ui.web.html_parts import (
    Page,
    form,
    html_table,
    in_order,
    json_link,
    link,
    request_link,
    section,
    text,
    tile,
)

_SEARCH = 'aria-label="Search" placeholder="request, tenant, model, engine or trace id"'
MEDIAN = "the median of {:,} requests of this tenant and model"


class CostBucket(NamedTuple):
    """The cost in one currency in a bucket of time."""

    begin_ns: int
    currency: str
    requests_nano: int | None
    """None: a part of it or all is unknown; also below."""
    everything_nano: int | None


class PageQuery(NamedTuple):
    """The parameters of a page's address."""

    over: str
    words: str = ""
    tenant: str = ""
    model: str = ""
    sort: str = "ended"


def when(period: Period, zone: tzinfo, now_ns: int) -> str:
    """The period in words, and the age of its end."""
    if period.since_ns >= period.until_ns:
        return "No window has closed yet: the first closes a minute after the agent's start, by default."
    begin, end = (moment(ns, zone).strftime("%Y-%m-%d %H:%M:%S") for ns in period)
    return f"{begin} to {end} {zone.tzname(None) or zone}, {show_span(max(0, now_ns - period.until_ns))} ago"


def overview(snapshot: Snapshot, buckets: Sequence[CostBucket], width_ns: int, query: PageQuery, zone: tzinfo) -> Page:
    """The overview: cost and use in tiles and charts, tenants, models, and the most expensive requests."""
    body = f'<ul class="tiles">{"".join(_tiles(snapshot))}</ul>'
    body += f'<div class="charts">{"".join(_charts(snapshot, buckets, width_ns, zone))}</div>'
    for view in (VIEW["tenants"], VIEW["models"]):
        key = view.filters
        links = {view.fields[0].heading: lambda row, shown, key=key: _to_requests(row, shown, key, query.over)}
        body += section(view.title, html_table(as_table(view, snapshot), links, most=15))
    costliest = in_order(as_table(VIEW["ended"], snapshot), ("request", "cost"))
    body += section(costliest.title, html_table(costliest, {"request": request_link}, most=8))
    return Page("", "Overview", body, query.over, simulated=any(device.simulated for device in snapshot.devices))


def _to_requests(row: Row, shown: str, key: str, over: str) -> str:
    if row["kind"] != "request" or not row["name"]:
        return shown
    return f'<a href="{link("requests", **{key: str(row["name"]), "over": over})}">{shown}</a>'


def _tiles(snapshot: Snapshot) -> list[str]:
    tiles = []
    for line in live.totals(snapshot):
        if not line.currency:
            continue
        cost, rate = line.cost_nano, "unknown"
        if cost is not None and snapshot.span_ns:
            hourly = amount(cost) * NS_PER_HOUR / Decimal(snapshot.span_ns)
            rate = f"{hourly:,.{minor_digits(line.currency)}f} {line.currency}/h"
        unpriced = " and more that is unpriced" if line.cost_unknown_ns else ""
        shown = show_amount(cost, line.currency)
        tiles.append(tile("cost, with idle", rate, f"{shown} in this time{unpriced}", cost))
    device_ns = sum(row.gpu_ns for row in snapshot.used)
    busy_ns = sum(row.gpu_ns for row in snapshot.used if row.kind == "request")
    idle_ns = sum(row.gpu_ns for row in snapshot.used if row.kind == "idle")
    output = sum(row.output_tokens for row in snapshot.ended)
    span_ns = snapshot.span_ns
    energy = live.per_token_uj(snapshot.ratio_sums)
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
            f"{100 * busy_ns / device_ns:.1f} %" if device_ns else "-",
            f"idle {100 * idle_ns / device_ns:.1f} %" if device_ns else "",
        ),
        tile(
            "requests", f"{sum(row.requests for row in snapshot.ended):,}", f"ended; running: {len(snapshot.running):,}"
        ),
        tile("devices", f"{len(snapshot.devices):,}", _watts(snapshot)),
    ]
    return tiles


def _watts(snapshot: Snapshot) -> str:
    powers = [row["power_mw"] for row in live.devices(snapshot)]
    known = [power for power in powers if isinstance(power, int)]
    if not known:
        return "power unknown"
    rest = f" of {len(known)}, unknown of {len(powers) - len(known)}" if len(known) < len(powers) else ""
    return f"{show_count(sum(known) / 1_000)} W{rest}"


def _charts(snapshot: Snapshot, buckets: Sequence[CostBucket], width_ns: int, zone: tzinfo) -> list[str]:
    charts = []
    for currency in sorted({bucket.currency for bucket in buckets if bucket.currency}):
        points = [bucket for bucket in buckets if bucket.currency == currency]
        charts.append(_cost_chart(snapshot.period, points, currency, width_ns, zone))
    used = [row._replace(keys=()) for row in snapshot.used]
    table = shares_table(summarize((), used, (), zone))
    device_ns = sum(int(str(row["gpu_ns"])) for row in table.rows)
    if device_ns:
        shares = [(str(row["share"]), int(str(row["gpu_ns"]))) for row in table.rows]
        parts = [svg.ChartPart(name, ns / device_ns, f"{100 * ns / device_ns:.1f} %") for name, ns in shares]
        description = ", ".join(f"{part.name} {part.text}" for part in parts)
        chart = svg.stacked_bar("use", "Where the device time went", description, parts)
        charts.append(section("Where the device time went", f"<figure>{chart}</figure>"))
    return charts


def _cost_chart(period: Period, points: Sequence[CostBucket], currency: str, width_ns: int, zone: tzinfo) -> str:
    def hourly(nano: int | None) -> float | None:
        return None if nano is None else float(amount(nano) * NS_PER_HOUR / Decimal(width_ns))

    places = [(point.begin_ns - period.since_ns) / width_ns for point in points]
    series = [
        svg.Series("with idle", [(x, hourly(point.everything_nano)) for x, point in zip(places, points, strict=True)]),
        svg.Series("requests", [(x, hourly(point.requests_nano)) for x, point in zip(places, points, strict=True)]),
    ]
    high = max((y for line in series for _, y in line.points if y is not None), default=1.0)
    last = max(1.0, float(max(places)))
    time_format = "%H:%M:%S" if period.until_ns - period.since_ns < NS_PER_HOUR // 6 else "%H:%M"
    time_format = time_format if period.until_ns - period.since_ns < 30 * NS_PER_HOUR else "%m-%d"
    tick_places = [last * k / 4 for k in range(5)]
    ticks = [(x, moment(round(period.since_ns + x * width_ns), zone).strftime(time_format)) for x in tick_places]
    title = f"Cost by the hour, {currency}"
    caption = "Each point is the mean over a stretch of time. A gap: the cost is unknown there, or in part."
    name = f"cost-{''.join(char for char in currency if char.isalnum())}"
    x, y = svg.Axis("", ticks, 0.0, last), svg.nice_axis(f"{currency} per hour", high)
    chart = svg.line_chart(name, title, caption, x, y, series, [])
    return section(title, f"<figure>{chart}<figcaption>{text(caption)}</figcaption></figure>")


def tenants(period: Period, used: Sequence[Used], ended: Sequence[Ended], query: PageQuery, zone: tzinfo) -> Page:
    """`costtrace report` by tenant, by model and by engine; *used* and *ended*: sums by all three (`live.KEYS`)."""
    body = ""
    for position, by in enumerate(live.KEYS):
        summary = summarize(
            (by,),
            [row._replace(keys=(row.keys[position],)) for row in used],
            [row._replace(keys=(row.keys[position],)) for row in ended],
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
    return Page("tenants", "Tenants, models, engines", body, query.over, simulated=any(row.simulated for row in used))


def _named(table: Table[Line], by: str) -> Table[Line]:
    """The table with the name and the kind of each line in one column."""

    def name(line: Line) -> str:
        kind = line.kind
        kind_and_reason = "" if kind == "request" else f"{kind}: {line.reason}" if line.reason else kind
        return ", ".join(part for part in (*line.keys, kind_and_reason) if part)

    return table._replace(
        columns=[Column(by, name, right=False), *(c for c in table.columns if c.heading not in {"", by})]
    )


def requests(
    matches: Sequence[Request], page_query: PageQuery, sort_orders: Sequence[str], limit: int, zone: tzinfo
) -> Page:
    """The search for single requests, and its result."""
    options = "".join(
        f"<option{' selected' if name == page_query.sort else ''}>{name}</option>" for name in sort_orders
    )
    fields = [
        f'<input name="q" type="search" value="{text(page_query.words)}" {_SEARCH}>',
        f'<input name="tenant" value="{text(page_query.tenant)}" aria-label="Tenant" placeholder="tenant, exactly">',
        f'<input name="model" value="{text(page_query.model)}" aria-label="Model" placeholder="model, exactly">',
        f'<select name="sort" aria-label="Sort by">{options}</select>',
    ]
    first_columns = ("request", "cost", "tenant", "model", "ended", "GPU time", "output tok")
    table = in_order(list_table(matches, None, "Requests", zone), first_columns)
    limit_note = f"At most {limit} are shown." if len(matches) == limit else ""
    body = form("requests", fields, {"over": page_query.over})
    body += html_table(
        table._replace(notes=[*table.notes, *([limit_note] if limit_note else [])]), {"request": request_link}
    )
    query = {"q": page_query.words, "tenant": page_query.tenant, "model": page_query.model, "sort": page_query.sort}
    simulated = any(request.simulated for request in matches)
    return Page("requests", "Requests", body, page_query.over, simulated=simulated, query=query)


def request(explanations: Sequence[Explanation], zone: tzinfo) -> Page:
    """One request: for each part, why it cost what it did, and all its fields. *explanations* is not empty."""
    body = ""
    for part in explanations:
        record = part.request
        sentences = "".join(f"<li>{text(sentence)}</li>" for sentence in part.sentences)
        usual = part.usual
        compared = MEDIAN.format(usual.requests) if usual is not None and usual.requests > 1 else ""
        note = f'<p class="note">Grey: {compared}.</p>' if compared else ""
        body += section(
            f"{record.tenant}, {record.model}, on engine {record.engine_id}", f'<ul class="why">{sentences}</ul>'
        )
        body += section("Beside the usual one", _bars(part.measures) + note)
        detail = detail_table(record, zone)
        body += section("All of it", html_table(detail) + json_link(record.record_id))
    first = explanations[0].whole or explanations[0].request
    title = f"Request {brief(first.request_id)}"
    cost = show_amount(first.cost_nano, first.currency or None)
    ended = f"ended {show_time(first.ended_ns, zone)}, cost {cost} without idle"
    ended += f", {first.parts} parts" if first.parts > 1 else ""
    return Page("requests/one", title, body, "", ended, any(part.request.simulated for part in explanations))


def _bars(measures: Sequence[Measure]) -> str:
    lines = []
    for group in (
        [measure for measure in measures if measure.name != "queue"],
        [measure for measure in measures if measure.name == "queue"],
    ):
        longest = max([*(measure.own_ns or 0 for measure in group), *(measure.usual_ns or 0 for measure in group), 1])
        for measure in group:
            own_width = 0 if measure.own_ns is None else 100 * measure.own_ns / longest
            usual_width = 0 if measure.usual_ns is None else 100 * measure.usual_ns / longest
            shown = "unknown" if measure.own_ns is None else show_seconds(measure.own_ns)
            usual_text = (
                ""
                if measure.usual_ns is None
                else f"<small>usually {text(show_seconds(round(measure.usual_ns)))}</small>"
            )
            lines.append(
                f"<dt>{text(measure.name)}</dt><dd>"
                '<svg viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
                f'<rect class="own" width="{own_width:.2f}" height="10"/>'
                f'<rect class="usual" y="12" width="{usual_width:.2f}" height="5"/></svg></dd>'
                f'<dd class="figure">{text(shown)}{usual_text}</dd>'
            )
    return f'<dl class="bars">{"".join(lines)}</dl>'


def devices(snapshot: Snapshot, query: PageQuery) -> Page:
    """Devices, engines and running requests."""
    body = section("Devices", html_table(as_table(VIEW["devices"], snapshot))) + section(
        "Engines", html_table(as_table(VIEW["engines"], snapshot))
    )
    running = as_table(VIEW["running"], snapshot)
    body += section(running.title, html_table(running, most=50))
    return Page("devices", "Devices", body, query.over, simulated=any(device.simulated for device in snapshot.devices))


def balance(tables: Sequence[AnyTable], listed: Sequence[Discrepancy], total: int, checked: str) -> Page:
    """The trial balance, as `costtrace verify` has it. *total* counts all discrepancies, *listed* has the first."""
    if total:
        body = f'<p class="bad" role="status">NOT in balance: {total:,} discrepancies</p><ul class="why">'
        for item in listed:
            body += (
                f"<li><b>{text(item.row)}</b>, {text(item.field)}: expected {text(item.expected)}, found "
                f"{text(item.found)}. {text(item.meaning)}</li>"
            )
        body += "</ul>"
    else:
        body = '<p class="good" role="status">in balance</p>'
    body += "".join(section(table.title, html_table(table)) for table in tables if table.lines)
    return Page("balance", "Trial balance", body, "", checked)
