"""The board's queries of a ledger: engines, applied prices, labelled requests, strata, a load test's requests."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from costtrace.ledger.answers import Period
from costtrace.ledger.count_once import INPUT, IS_REQUEST, OUTPUT
from costtrace.ledger.reader import Filter, Store
from costtrace_board.cells import EngineInfo, PriceSince, Transaction
from costtrace_board.improvement import Block
from costtrace_board.pareto import RunBill


def engines(store: Store) -> dict[str, EngineInfo]:
    """All engines of the ledger, by id."""
    sql = """
        SELECT engine_id, engine, version, model, device_name, devices, settings, simulated, started_wall_ns, role
        FROM engine
    """
    infos = {}
    for row in store.rows(sql):
        engine_id, engine, version, model, device_name, devices, settings, simulated, started_ns, role = row
        infos[engine_id] = EngineInfo(
            engine_id,
            engine,
            version,
            model,
            device_name,
            tuple(json.loads(devices)),
            json.loads(settings),
            bool(simulated),
            started_ns,
            role,
        )
    return infos


def prices(store: Store, period: Period) -> list[PriceSince]:
    """Every rate that was applied in *period*, by device name, with the first window that it was applied to."""
    sql = """
        SELECT e.device_name, r.currency, r.price_book, r.device_numerator, r.device_denominator, min(p.window_ns)
        FROM posting p JOIN rate r ON r.rate_id = p.rate_id JOIN engine e ON e.engine_id = p.engine_id
        WHERE p.window_ns >= :since AND p.window_ns < :until
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 6
    """
    rows = store.rows(sql, {"since": period.since_ns, "until": period.until_ns})
    return [
        PriceSince(device, currency, book, int(numerator), int(denominator), since_ns)
        for device, currency, book, numerator, denominator, since_ns in rows
    ]


def transactions(store: Store, period: Period, label: str) -> list[Transaction]:
    """Requests that ended in *period*, summed by the value of a label ('' where a request has none) and currency."""
    sql = f"""
        SELECT u.labels, u.currency, sum({IS_REQUEST}),
            sum(u.cost_nano), sum(CASE WHEN u.cost_nano IS NULL THEN 1 ELSE 0 END), sum(u.gpu_ns),
            sum({INPUT}), sum({OUTPUT})
        FROM usage u WHERE u.ended_ns >= :since AND u.ended_ns < :until GROUP BY 1, 2
    """  # noqa: S608 - made of constants
    sums: dict[tuple[str, str], list[int | None]] = {}
    for labels, currency, *values in store.rows(sql, {"since": period.since_ns, "until": period.until_ns}):
        key = (str(json.loads(labels).get(label, "")), currency)
        so_far = sums.get(key)
        sums[key] = values if so_far is None else [_plus(a, b) for a, b in zip(so_far, values, strict=True)]
    return [_transaction(key, values) for key, values in sums.items()]


def _transaction(key: tuple[str, str], values: list[int | None]) -> Transaction:
    requests, cost_nano, unpriced, gpu_ns, inputs, outputs = values
    cost = None if unpriced else cost_nano
    return Transaction(*key, requests or 0, cost, gpu_ns or 0, inputs or 0, outputs or 0)


def _plus(left: int | None, right: int | None) -> int | None:
    return left if right is None else right if left is None else left + right


BATCHES_MILLI = tuple(round(1_000 * 2 ** (quarter / 4)) for quarter in range(1, 48))
"""Bounds of the mean sequences in a request's steps, x 1,000: each 1.19 times the one before."""


class Bounds(NamedTuple):
    """The upper bounds of the buckets into which requests are sorted, so that like is compared with like."""

    prompt: tuple[int, ...] = (128, 512, 2_048, 8_192, 32_768)
    output: tuple[int, ...] = (32, 128, 512, 2_048, 8_192)
    batch_milli: tuple[int, ...] = BATCHES_MILLI


def blocks(
    store: Store,
    period: Period,
    only: Filter,
    bounds: Bounds = Bounds(),  # noqa: B008 - immutable
) -> Iterator[Block]:
    """Requests of *period*, summed by hour, engine version and stratum (device, sizes, cache, batch)."""
    sql = f"""
        SELECT e.engine || ' ' || e.version, u.model || ' on ' || e.device_name,
            {_bucket("u.input_tokens", bounds.prompt)}, {_bucket("u.output_tokens", bounds.output)},
            CASE WHEN u.input_tokens > 0 THEN 4 * u.cached_tokens / u.input_tokens ELSE 0 END,
            {_bucket("u.batch_milli", bounds.batch_milli)},
            u.ended_ns / 3600000000000, sum(u.gpu_ns), sum(u.cost_nano),
            sum(CASE WHEN u.cost_nano IS NULL THEN 1 ELSE 0 END), sum({INPUT}), sum({OUTPUT}),
            sum({IS_REQUEST})
        FROM usage u JOIN engine e ON e.engine_id = u.engine_id
        WHERE u.ended_ns >= :since AND u.ended_ns < :until {only.sql("u")}
        GROUP BY 1, 2, 3, 4, 5, 6, 7
    """  # noqa: S608 - made of constants of this module
    parameters: Mapping[str, int | str] = {
        "since": period.since_ns,
        "until": period.until_ns,
        **only.parameters(),
    }
    for row in store.rows(sql, parameters):
        version, model_on_device, *stratum, hour, gpu_ns, cost_nano, unpriced, inputs, outputs, requests = row
        cost = None if unpriced else cost_nano
        yield Block(version, (model_on_device, *map(str, stratum)), hour, gpu_ns, cost, inputs, outputs, requests)


def _bucket(column: str, limits: tuple[int, ...]) -> str:
    cases = " ".join(f"WHEN {column} < {limit} THEN {number}" for number, limit in enumerate(limits))
    return f"CASE {cases} ELSE {len(limits)} END"


def billed(store: Store, is_own: Callable[[str], bool], since_ns: int) -> RunBill | None:
    """Sums over the requests that ended since *since_ns* and whose id *is_own* accepts; None without any.

    Without a cost where one is unknown, or where they are in several currencies.
    """
    sql = f"""
        SELECT u.request_id, {IS_REQUEST}, u.gpu_ns, u.cost_nano, u.currency, u.energy_uj, u.gap_ns, {INPUT}, {OUTPUT},
            u.batch_milli, e.device_name, e.devices, e.engine, u.simulated
        FROM usage u JOIN engine e ON e.engine_id = u.engine_id WHERE u.ended_ns >= :since
    """  # noqa: S608 - made of constants
    rows = [row[1:] for row in store.rows(sql, {"since": since_ns}) if is_own(row[0])]
    if not rows:
        return None
    (
        requests,
        gpu_ns,
        costs,
        currencies,
        energies,
        unknown_ns,
        inputs,
        outputs,
        batches,
        names,
        devices,
        engines,
        simulated,
    ) = zip(*rows, strict=True)
    known = [energy for energy in energies if energy is not None]
    priced_in = {currency for cost, currency in zip(costs, currencies, strict=True) if cost is not None}
    return RunBill(
        sum(requests),
        sum(gpu_ns),
        None if None in costs or len(priced_in) > 1 else sum(costs),
        ", ".join(sorted(priced_in)) or max(currencies),
        None if any(unknown_ns) or not known else sum(known),
        sum(inputs),
        sum(outputs),
        sum(batches) // len(rows),
        " + ".join(sorted(set(names))),
        len({device for device_list in set(devices) for device in json.loads(device_list)}),
        any(simulated),
        max(engines),
    )
