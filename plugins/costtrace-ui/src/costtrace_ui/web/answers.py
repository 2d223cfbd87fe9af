"""What the server answers: an address in, a page or JSON out. Each answer reads the ledger once, read-only."""

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
from costtrace.core.errors import CosttraceError
from costtrace.ledger.answers import Period
from costtrace.ledger.cost_by_now import renew
from costtrace.ledger.queries import ORDERS, bounds, find_requests, habits
from costtrace.ledger.reader import Filter, Store, open_ledger
from costtrace.ledger.verify.audit import Audit
from costtrace.pricing.carbon import CarbonIntensity
from costtrace.reports.evidence.balance import balance_tables
from costtrace.reports.output.render import render
from costtrace.reports.requests.explain_query import PARTS, explained
from costtrace.reports.requests.tables import list_table
from costtrace.reports.requests.why import usual
from costtrace_ui.live.query import course, look, search, when_ended
from costtrace_ui.web import pages
from costtrace_ui.web.frame import STRETCHES, Page, Style, framed, section, text

HTML, JSON = "text/html; charset=utf-8", "application/json"
LISTED = 100
PEERS = 20_000
"""So many of the newest requests make the medians that reasons compare with: a fraction of a second."""
NAMED = 20
BUCKETS = 48
EVERY_S = 5
PATIENCE = 20
"""A page is read again after so many times what reading it took: a large ledger is not read all the time."""
LONGEST = 512
DEFAULT_OVER = "1h"


class Answer(NamedTuple):
    """What goes over the wire."""

    status: int
    kind: str
    body: bytes


class Answers:
    """Answers of one ledger, for several threads."""

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

    def answer(self, path: str, query: str) -> Answer:
        """The answer to ``GET path?query``."""
        words = path.removeprefix("/")
        as_json = words.startswith("v1/")
        try:
            if as_json:
                return self._json(words)
            asked = _asked(query)
        except ValueError:
            return self._failed(400, "Too much is asked for at once.", as_json=as_json)
        except CosttraceError as error:
            return self._failed(503, str(error), as_json=as_json)
        try:
            page = self._page(words, asked)
        except CosttraceError as error:
            return self._failed(503, str(error), as_json=as_json)
        if page is None:
            return self._failed(404, f"There is nothing at /{unquote(words)[:LONGEST]}.", as_json=False)
        return self._html(200, page)

    def _page(self, words: str, asked: pages.Asked) -> Page | None:
        if words == "balance":
            return self._balance()
        with open_ledger(self.home) as store:
            if words.startswith("requests/"):
                found = explained(store, _identifier(words), when_ended(store), PEERS)
                return pages.request(found, self._zone) if found else None
            if words not in self._pages:
                return None
            began = time.monotonic()
            page, period = self._pages[words](store, asked)
        every_s = max(EVERY_S, PATIENCE * (time.monotonic() - began))
        subtitle = pages.when(period, self._zone, time.time_ns())
        return page._replace(subtitle=subtitle, every_ms=round(1_000 * every_s))

    def _period(self, store: Store, asked: pages.Asked) -> Period | None:
        return bounds(store) if asked.over == "all" else None

    def _overview(self, store: Store, asked: pages.Asked) -> tuple[Page, Period]:
        found = look(store, _over_ns(asked.over), NAMED, period=self._period(store, asked))
        width_ns, points = course(store, found.period, BUCKETS)
        return pages.overview(found, [pages.Course(*p) for p in points], width_ns, asked, self._zone), found.period

    def _tenants(self, store: Store, asked: pages.Asked) -> tuple[Page, Period]:
        found = look(store, _over_ns(asked.over), 1, period=self._period(store, asked))
        return pages.tenants(found.period, found.used, found.ended, asked, self._zone), found.period

    def _devices(self, store: Store, asked: pages.Asked) -> tuple[Page, Period]:
        found = look(store, _over_ns(asked.over), NAMED, period=self._period(store, asked))
        return pages.devices(found, asked), found.period

    def _requests(self, store: Store, asked: pages.Asked) -> tuple[Page, Period]:
        whole = when_ended(store)
        period = Period(max(whole.since_ns, whole.until_ns - _over_ns(asked.over)), whole.until_ns)
        only = Filter(asked.tenant or None, asked.model or None)
        found = search(store, period, asked.words, only, asked.sort, LISTED)
        return pages.requests(found, asked, list(ORDERS), LISTED, self._zone), period

    def _balance(self) -> Page:
        """The trial balance; one at a time, and for a while the last one: it reads every row of the ledger."""
        if self._audited is not None and time.monotonic() < self._audited[0]:
            return self._audited[1]
        if not self._auditing.acquire(blocking=False):
            # Nobody waits in line: the other pages need their room.
            said = "The rows are being added up at this moment; this page looks again by itself."
            return Page("balance", "Trial balance", section("", ""), "", said, every_ms=2_000)
        try:
            return self._audit()
        finally:
            self._auditing.release()

    def _audit(self) -> Page:
        began = time.monotonic()
        with open_ledger(self.home) as store:
            audit = Audit(store)
            found = audit.discrepancies()
            named = list(islice(found, NAMED))
            checks = Counter(item.check for item in named)
            checks.update(item.check for item in found)
            tables = balance_tables(audit, damaged=checks["plausible"] > 0)
            counts = audit.counts()
        took_s = time.monotonic() - began
        said = (
            f"{counts.postings:,} postings, {counts.meter_rows:,} meter rows, {counts.usage_records:,} usage "
            f"records of {counts.engines:,} engines checked in {took_s:.1f} s, as costtrace verify does"
        )
        page = pages.balance(tables, named, checks.total(), said)
        self._audited = (time.monotonic() + max(EVERY_S, PATIENCE * took_s), page)
        return page

    def _json(self, words: str) -> Answer:
        if not words.startswith("v1/requests/"):
            return self._failed(404, "There is only /v1/requests/{id}: a request, record or trace id.", as_json=True)
        identifier = _identifier(words.removeprefix("v1/"))
        with open_ledger(self.home) as store:
            found = renew(store, find_requests(store, identifier, PARTS))
            wanted = [(request.tenant, request.model) for request in found]
            peers = usual(habits(store, when_ended(store), PEERS), wanted) if found else {}
        if not found:
            message = (
                f"no request {identifier!r} is in the ledger. It appears there when it has ended and its window has "
                "closed; it can be named by its request id, record id, request key or trace id."
            )
            return self._failed(404, message, as_json=True)
        body = render([list_table(found, peers, "", self._zone, self._carbon)], "json")
        return Answer(200, JSON, body.encode())

    def _failed(self, status: int, message: str, *, as_json: bool) -> Answer:
        if as_json:
            return Answer(status, JSON, (json.dumps({"error": message}) + "\n").encode())
        title = {400: "Not understood", 404: "Not found"}.get(status, "The ledger cannot be read")
        page = Page("?", title, section("", f"<p>{text(message)}</p>"), "")
        return self._html(status, page)

    def _html(self, status: int, page: Page) -> Answer:
        return Answer(status, HTML, framed(page, self.style).encode("utf-8", "backslashreplace"))


def _identifier(words: str) -> str:
    return unquote(words.partition("/")[2])[:LONGEST]


def _asked(query: str) -> pages.Asked:
    given = parse_qs(query, max_num_fields=20)
    one = {key: values[-1][:LONGEST] for key, values in given.items()}
    over, sort = one.get("over", ""), one.get("sort", "")
    return pages.Asked(
        over if over in STRETCHES else DEFAULT_OVER,
        one.get("q", "").strip(),
        one.get("tenant", "").strip(),
        one.get("model", "").strip(),
        sort if sort in ORDERS else "ended",
    )


def _over_ns(over: str) -> int:
    return 2**62 if over == "all" else stretch_ns(over)
