"""The ledger queries of ``costtrace plan``: a group of engines, the requests that it served, its step models."""

import json

from costtrace.core.errors import CosttraceError
from costtrace.ledger.answers import Period
from costtrace.ledger.count_once import INPUT
from costtrace.ledger.reader import Row, Store
from costtrace_lab.plan.figures import EngineGroup, ServedPart

WHOLE_ROLES = ("aggregated", "")
"""The roles of engines that do both prefill and decode, so that their requests can be replayed on one engine."""


def engine_group(store: Store, period: Period, model: str | None, device: str | None) -> EngineGroup:
    """The engines of one model on one kind of device: those named, else the busiest.

    Raises: CosttraceError: there are none, or they have different numbers of devices.
    """
    sql = """
        SELECT e.model, e.device_name, e.role, e.devices, e.settings, e.engine_id, e.simulated,
            sum(CASE WHEN p.kind = 'request' THEN p.gpu_ns ELSE 0 END), sum(p.gpu_ns)
        FROM line p JOIN engine e ON e.engine_id = p.engine_id
        WHERE p.window_ns >= :since AND p.window_ns < :until
        GROUP BY e.model, e.device_name, e.role, e.devices, e.settings, e.engine_id, e.simulated, e.started_wall_ns
        ORDER BY e.started_wall_ns DESC, e.engine_id DESC
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    others: set[str] = set()
    for row in store.rows(sql, {"since": period.since_ns, "until": period.until_ns}):
        if row[2] in WHOLE_ROLES:
            groups.setdefault((row[0], row[1]), []).append(row)
        else:
            others.add(f"{row[0]} on {row[1]} ({row[2]} engines)")
    candidates = {
        key: rows
        for key, rows in groups.items()
        if model in {None, key[0]} and device in {None, key[1]} and sum(row[7] for row in rows)
    }
    if not candidates:
        known = [f"{key[0]} on {key[1]}" for key in groups] + sorted(others)
        raise CosttraceError(
            "there is no traffic to plan with: no engine that does prefill and decode served "
            f"{model or 'anything'} on {device or 'any device'} in this period. There are: {'; '.join(known) or 'none'}"
        )
    chosen = max(candidates, key=lambda key: (sum(row[7] for row in candidates[key]), key))
    rows = candidates[chosen]
    sizes = {len(json.loads(row[3])) for row in rows}
    if len(sizes) > 1:
        raise CosttraceError(
            f"the engines of {chosen[0]} on {chosen[1]} have {', '.join(map(str, sorted(sizes)))} devices each: a plan "
            "is of engines of one size. Take a --since after which all have the same."
        )
    others |= {f"{key[0]} on {key[1]}" for key in groups if key != chosen}
    settings = tuple(sorted((str(name), str(value)) for name, value in json.loads(rows[0][4]).items()))
    return EngineGroup(
        *chosen,
        sizes.pop(),
        len({row[3] for row in rows}),
        settings,
        rows[0][5],
        sum(row[7] for row in rows),
        sum(row[8] for row in rows),
        any(row[6] for row in rows),
        tuple(sorted(others)),
    )


def served_parts(store: Store, period: Period, group: EngineGroup, limit: int) -> list[ServedPart]:
    """The newest *limit* requests of *period* on a group's engines, in the order of arrival."""
    sql = f"""
        SELECT e.devices, u.arrived_ns, u.decode_ns_at, u.ended_ns, u.input_tokens, u.cached_tokens, u.output_tokens,
            u.sequences, u.steps, u.batch_milli, u.gpu_ns, u.cost_nano, u.currency,
            {INPUT}
        FROM usage u JOIN engine e ON e.engine_id = u.engine_id
        WHERE u.ended_ns >= :since AND u.ended_ns < :until AND e.model = :model AND e.device_name = :device
            AND e.role IN {WHOLE_ROLES} AND u.role IN {WHOLE_ROLES} AND u.gpu_ns > 0
        ORDER BY u.arrived_ns DESC, u.usage_id DESC LIMIT :limit
    """  # noqa: S608 - made of constants of this module
    parameters: dict[str, int | str] = {
        "since": period.since_ns,
        "until": period.until_ns,
        "model": group.model,
        "device": group.device,
        "limit": limit,
    }
    return [ServedPart(*row) for row in store.rows(sql, parameters)][::-1]


def newest_fit_engines(store: Store, group: EngineGroup) -> list[str]:
    """The ids of a group's engines whose step model the ledger has, the newest first."""
    sql = """
        SELECT f.engine_id FROM engine_fit f JOIN engine e ON e.engine_id = f.engine_id
        WHERE e.model = :model AND e.device_name = :device ORDER BY f.fitted DESC, e.started_wall_ns DESC
    """
    return [row[0] for row in store.rows(sql, {"model": group.model, "device": group.device})]
