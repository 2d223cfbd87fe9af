"""The responses of the server: from a path and a query to a page or JSON. Each opens the ledger once, read-only."""

import json
import time
from collections import Counter
from datetime import tzinfo
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from costtrace.cli.time_words import stretch_ns
from costtrace.core.client_text import short
from costtrace.core.errors import CosttraceError
from costtrace.ledger.answers import Period
from costtrace.ledger.queries import ORDERS, bounds
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.ledger.verify.audit import Audit
from costtrace.ledger.wholes import find_wholes, whole_habits
from costtrace.pricing.carbon import CarbonIntensity
from costtrace.reports.evidence.balance import balance_tables
from costtrace.reports.output.render import render
from costtrace.reports.requests.explain_query import PARTS, explained
from costtrace.reports.requests.tables import list_table
from costtrace.reports.requests.why import usual
from costtrace_ui.live.query import cost_by_bucket, period_of_requests, read_snapshot, search_requests
from costtrace_ui.web import pages
from costtrace_ui.web.html_parts import STRETCHES, Page, Style, framed, section, text

HTML, JSON = "text/html; charset=utf-8", "application/json"
LISTED = 100
PEERS = 20_000
"""How many of the newest requests the medians of an explanation are over: it takes a fraction of a second."""
NAMED = 20
BUCKETS = 48
MIN_REFRESH_S = 5
REFRESH_FACTOR = 20
"""Refresh interval of a page over the time that reading it took, so that a large ledger is not read all the time."""
MAX_TEXT = 512
"""Characters of an identifier or a query value that are read."""
DEFAULT_OVER = "1h"


class Response(NamedTuple):
    """An HTTP response."""

    status: int
    kind: str
    body: bytes


class Responder:
    """Responds to GET requests from one ledger. Safe for several threads."""

    def __init__(self, home: Path, style: Style, zone: tzinfo, carbon: CarbonIntensity | None = None) -> None:
        self.home, self.style, self._zone, self._carbon = home, style, zone, carbon
        self._auditing = Lock()
        self._audited: tuple[float, Page] | None = None
        self._pages = {
            "": self._overview,
            "tenants": self._tenants,
            "requests": self._requests,
            "devices": self._devices,
        }

    def respond(self, path: str, query: str) -> Response:
        """The response to ``GET path?query``; a ledger that cannot be read is a 503, not an exception."""
        name = path.removeprefix("/")
        as_json = name.startswith("v1/")
        try:
            if as_json:
                return self._json(name)
            page_query = _page_query(query)
        except ValueError:
            return self._failed(400, "Too much is asked for at once.", as_json=as_json)
        except CosttraceError as error:
            return self._failed(503, str(error), as_json=as_json)
        try:
            page = self._page(name, page_query)
        except CosttraceError as error:
            return self._failed(503, str(error), as_json=as_json)
        if page is None:
            return self._failed(404, f"There is nothing at /{unquote(name)[:MAX_TEXT]}.", as_json=False)
        return self._html(200, page)

    def _page(self, name: str, query: pages.PageQuery) -> Page | None:
        if name == "balance":
            return self._balance()
        with open_ledger(self.home) as store:
            if name.startswith("requests/"):
                explanations = explained(store, _identifier(name), period_of_requests(store), PEERS)
                return pages.request(explanations, self._zone) if explanations else None
            if name not in self._pages:
                return None
            began = time.monotonic()
            page, period = self._pages[name](store, query)
        every_s = max(MIN_REFRESH_S, REFRESH_FACTOR * (time.monotonic() - began))
        subtitle = pages.when(period, self._zone, time.time_ns())
        return page._replace(subtitle=subtitle, every_ms=round(1_000 * every_s))

    def _period(self, store: Store, query: pages.PageQuery) -> Period | None:
        return bounds(store) if query.over == "all" else None

    def _overview(self, store: Store, query: pages.PageQuery) -> tuple[Page, Period]:
        snapshot = read_snapshot(store, _over_ns(query.over), NAMED, period=self._period(store, query))
        width_ns, buckets = cost_by_bucket(store, snapshot.period, BUCKETS)
        return pages.overview(
            snapshot, [pages.CostBucket(*bucket) for bucket in buckets], width_ns, query, self._zone
        ), snapshot.period

    def _tenants(self, store: Store, query: pages.PageQuery) -> tuple[Page, Period]:
        snapshot = read_snapshot(store, _over_ns(query.over), 1, period=self._period(store, query))
        return pages.tenants(snapshot.period, snapshot.used, snapshot.ended, query, self._zone), snapshot.period

    def _devices(self, store: Store, query: pages.PageQuery) -> tuple[Page, Period]:
        snapshot = read_snapshot(store, _over_ns(query.over), NAMED, period=self._period(store, query))
        return pages.devices(snapshot, query), snapshot.period

    def _requests(self, store: Store, query: pages.PageQuery) -> tuple[Page, Period]:
        all_requests = period_of_requests(store)
        period = Period(max(all_requests.since_ns, all_requests.until_ns - _over_ns(query.over)), all_requests.until_ns)
        only = Filter(query.tenant or None, query.model or None)
        matches = search_requests(store, period, query.words, only, query.sort, LISTED)
        return pages.requests(matches, query, list(ORDERS), LISTED, self._zone), period

    def _balance(self) -> Page:
        """The trial balance. It reads every row: one audit at a time, and its page is kept for a while."""
        if self._audited is not None and time.monotonic() < self._audited[0]:
            return self._audited[1]
        if not self._auditing.acquire(blocking=False):
            # A waiting thread would take one of the few slots from the other pages.
            message = "The rows are being added up at this moment; this page looks again by itself."
            return Page("balance", "Trial balance", section("", ""), "", message, every_ms=2_000)
        try:
            return self._audit()
        finally:
            self._auditing.release()

    def _audit(self) -> Page:
        began = time.monotonic()
        with open_ledger(self.home) as store:
            audit = Audit(store)
            discrepancies = audit.discrepancies()
            listed = list(islice(discrepancies, NAMED))
            checks = Counter(item.check for item in listed)
            checks.update(item.check for item in discrepancies)
            tables = balance_tables(audit, damaged=checks["plausible"] > 0)
            counts = audit.counts()
        took_s = time.monotonic() - began
        message = (
            f"{counts.postings:,} postings, {counts.meter_rows:,} meter rows, {counts.usage_records:,} usage "
            f"records of {counts.engines:,} engines checked in {took_s:.1f} s, as costtrace verify does"
        )
        page = pages.balance(tables, listed, checks.total(), message)
        self._audited = (time.monotonic() + max(MIN_REFRESH_S, REFRESH_FACTOR * took_s), page)
        return page

    def _json(self, name: str) -> Response:
        if not name.startswith("v1/requests/"):
            return self._failed(404, "There is only /v1/requests/{id}: a request, record or trace id.", as_json=True)
        identifier = _identifier(name.removeprefix("v1/"))
        with open_ledger(self.home) as store:
            matches = find_wholes(store, identifier, PARTS)
            groups = [(request.tenant, request.model) for request in matches]
            peers = usual(whole_habits(store, period_of_requests(store), PEERS), groups) if matches else {}
        if not matches:
            message = (
                f"no request {identifier!r} is in the ledger. It appears there when it has ended and its window has "
                "closed; it can be named by its request id, record id, request key or trace id."
            )
            return self._failed(404, message, as_json=True)
        body = render([list_table(matches, peers, "", self._zone, self._carbon)], "json")
        return Response(200, JSON, body.encode())

    def _failed(self, status: int, message: str, *, as_json: bool) -> Response:
        if as_json:
            return Response(status, JSON, (json.dumps({"error": message}) + "\n").encode())
        title = {400: "Not understood", 404: "Not found"}.get(status, "The ledger cannot be read")
        page = Page("?", title, section("", f"<p>{text(message)}</p>"), "")
        return self._html(status, page)

    def _html(self, status: int, page: Page) -> Response:
        return Response(status, HTML, framed(page, self.style).encode("utf-8", "backslashreplace"))


def _identifier(path: str) -> str:
    return short(unquote(path.partition("/")[2]))


def _page_query(query: str) -> pages.PageQuery:
    values_by_name = parse_qs(query, max_num_fields=20)
    last_value = {key: values[-1][:MAX_TEXT] for key, values in values_by_name.items()}
    over, sort = last_value.get("over", ""), last_value.get("sort", "")
    return pages.PageQuery(
        over if over in STRETCHES else DEFAULT_OVER,
        last_value.get("q", "").strip(),
        last_value.get("tenant", "").strip(),
        last_value.get("model", "").strip(),
        sort if sort in ORDERS else "ended",
    )


def _over_ns(over: str) -> int:
    return 2**62 if over == "all" else stretch_ns(over)
