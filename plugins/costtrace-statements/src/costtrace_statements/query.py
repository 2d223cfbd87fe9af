"""What statements ask of a store: a period by pool, tenant, model and day, its slots, its totals, its methods."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, tzinfo

from costtrace.ledger.answers import Period, Used
from costtrace.ledger.queries import ended, used
from costtrace.ledger.reader import Store
from costtrace.reports.usage.summary import REQUESTS
from costtrace_statements.settlement import Facts, SettlementInput


def load(store: Store, period: Period, zone: tzinfo, *, slots: bool = False) -> SettlementInput:
    """All that `settlement.settle` needs. *slots*: quarter hours too, for the policy `peak`. Raises: LedgerError."""
    day = "utc day" if zone is UTC else "day"
    names = ("device", "tenant", "model", day)
    return SettlementInput(
        period,
        zone,
        list(used(store, period, names)),
        list(ended(store, period, names)),
        list(used(store, period, ("device", "tenant", "hour"))) if slots else [],
        list(used(store, period, ())),
        _facts(used(store, period, ("tenant", "method", "price_book", "simulated"))),
    )


def _facts(rows: Iterable[Used]) -> dict[str, Facts]:
    methods: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    books: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    simulated: dict[str, int] = defaultdict(int)
    for row in rows:
        tenant, method, book, is_simulated = row.keys
        if row.kind == REQUESTS:
            methods[tenant][method] += row.gpu_ns
        books[tenant][book] += row.gpu_ns
        simulated[tenant] += row.gpu_ns if is_simulated == "1" else 0
    return {name: Facts(dict(methods[name]), dict(books[name]), simulated[name]) for name in books}
