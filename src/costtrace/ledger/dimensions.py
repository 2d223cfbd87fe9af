"""Dimensions: by what sums of postings and usage records can be grouped, as SQL that SQLite and ClickHouse share."""

import re
from typing import NamedTuple

from costtrace.core.errors import CosttraceError
from costtrace.core.units import NS_PER_HOUR, NS_PER_S

_DAY_NS = 24 * NS_PER_HOUR
_QUARTER_NS = 900 * NS_PER_S
_QUARTER = f"CAST({{0}} - {{0}} % {_QUARTER_NS} AS TEXT)"
"""Time is grouped by quarters of an hour: in every time zone hours and days begin with one."""
WORKER = "coalesce(nullif(json_extract(e.settings, '$.dynamo_worker'), ''), e.engine_id, '')"
"""Dynamo's name for the worker of engine e, where the engine recorded it; else the engine's id."""


class Dimension(NamedTuple):
    """The value of a dimension for a posting (p) and for a usage record (u); e is the engine of either."""

    posting: str
    usage: str
    tables: frozenset[str] = frozenset()
    """Tables that a posting must be joined with."""


def _label(name: str) -> Dimension:
    """A label of requests. *name* goes into the SQL: it is one of ours, or matched `_LABEL`."""
    value = f"coalesce(json_extract(u.labels, '$.\"{name}\"'), '')"
    return Dimension(value, value, frozenset({"usage"}))


_TIME = Dimension(_QUARTER.format("p.window_ns"), _QUARTER.format("u.ended_ns"))
TIME_DIMENSIONS = ("hour", "day", "month")
"""All three are grouped by the quarter-hour; reports make hours, days and months of a time zone from it."""
DIMENSIONS: dict[str, Dimension] = {
    "tenant": Dimension("p.tenant", "u.tenant"),
    "model": Dimension("p.model", "u.model"),
    "engine": Dimension("p.engine_id", "u.engine_id"),
    **dict.fromkeys(TIME_DIMENSIONS, _TIME),
    "operation": Dimension("coalesce(u.operation, p.operation)", "u.operation", frozenset({"usage"})),
    "device": Dimension("coalesce(e.device_name, '')", "coalesce(e.device_name, '')"),
    "method": Dimension("p.method", "u.method"),
    "price_book": Dimension("coalesce(r.price_book, '')", "u.price_book"),
    # A request's role can differ from its engine's. Open requests, and idle or overhead time, have the engine's.
    "role": Dimension("coalesce(u.role, e.role, '')", "u.role", frozenset({"usage"})),
    "worker": Dimension(WORKER, WORKER),
    # Empty for open requests and for compacted periods, which do not keep it.
    "user": Dimension("coalesce(u.\"user\", '')", 'u."user"', frozenset({"usage"})),
    **{name: _label(name) for name in ("workload", "route")},
}
FREE = ("user", "workload", "route")
"""Dimensions whose values clients choose, as for ``label:NAME``: there can be any number of them."""
LABEL_PREFIX = "label:"
_LABEL = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_INNER = {
    # Days of UTC need no quarter-hours: a month of a large ledger is a hundred times fewer rows.
    "utc day": Dimension(
        f"CAST(p.window_ns - p.window_ns % {_DAY_NS} AS TEXT)", f"CAST(u.ended_ns - u.ended_ns % {_DAY_NS} AS TEXT)"
    ),
    "simulated": Dimension(
        "CAST(coalesce(e.simulated, 0) AS TEXT)", "CAST(coalesce(e.simulated, 0) AS TEXT)", frozenset({"engine"})
    ),
}
"""Dimensions that reports use and `--by` does not offer."""


def dimension(name: str) -> Dimension:
    """Look up a dimension, or ``label:NAME``. Raises: CosttraceError."""
    if is_label(name):
        return _label(name.removeprefix(LABEL_PREFIX))
    known = DIMENSIONS.get(name) or _INNER.get(name)
    if known is None:
        raise CosttraceError(f"there is no dimension {name!r}: use {', '.join(DIMENSIONS)}, {LABEL_PREFIX}NAME")
    return known


def is_label(name: str) -> bool:
    """Whether *name* is ``label:NAME``."""
    return name.startswith(LABEL_PREFIX) and _LABEL.fullmatch(name.removeprefix(LABEL_PREFIX)) is not None
