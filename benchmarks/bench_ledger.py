"""How long reports and statements take on a large ledger, how large it is, and the same on ClickHouse beside it.

    python benchmarks/bench_ledger.py [--records 10000000] [--home DIR] [--clickhouse] [--skip verify]

Fills a ledger with a simulated month (1 posting and 1 usage record a request, up to 1,000 tenants, 10 models, 2 pools),
then runs the real commands on it, each in a process of its own: wall time and peak memory are that process's.
--clickhouse pushes the same rows into an embedded ClickHouse (chdb) and runs the same commands there. Before a figure
is given, what each command wrote there is compared with what it wrote on SQLite, byte by byte, and the tokens, device
time and money of the report with what was put in.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from costtrace.core.events import Position
from costtrace.core.rows import EngineRow
from costtrace.ledger.store import Ledger

HOUR_NS = 3_600 * 10**9
START_NS = 1_793_491_200 * 10**9  # 2026-11-01
WINDOWS = 720
RATES = {
    "NVIDIA H100": ("rate-h", "bench [simulated]", "USD", "NVIDIA H100", "5", "7200", "", "", 1),
    "NVIDIA L40S": ("rate-l", "bench [simulated]", "USD", "NVIDIA L40S", "1", "3600", "", "", 1),
}
ENGINES = 20
TENANTS = 1_000
SCRIPT = Path(sys.executable).parent / "costtrace"
BUSY_NS = HOUR_NS * 6 // 10
DRAWS = 10_007
"""Tenants are drawn so often, then again in the same order."""
# What a stretch of an engine's time costs, so that the rounded parts add up as the agent's do.
NANO = "({0} + {1}) * :above / :below - ({0}) * :above / :below"
REQUESTS = f"""
    INSERT INTO posting SELECT NULL, :window, :engine, 'request', '', printf('r%09d', :number + s.i), d.tenant, :model,
        s.ns, s.ns * (s.i % 7) / 9, s.ns - s.ns * (s.i % 7) / 9, 0, NULL, NULL, NULL, NULL, s.ns, 'roofline', :rate,
        {NANO.format(":begin + s.before", "s.ns")}, 0
    FROM share s JOIN draw d ON d.n = (:number + s.i) % :draws ORDER BY s.i
"""
IDLE = f"""
    INSERT INTO posting VALUES (NULL, :window, :engine, 'idle', '', '', '', '', :end - :begin - :busy, 0, 0, 0, NULL,
        NULL, NULL, NULL, :end - :begin - :busy, '', :rate,
        {NANO.format(":begin + :busy", "(:end - :begin - :busy)")}, 0)
"""
COST = f"({NANO.format(':begin + s.before', 's.ns')})"
USAGE = f"""
    INSERT INTO usage (usage_id, record_id, request_key, request_id, engine_id, part, attempt, role, tenant,
        tenant_source, "user", labels, model, operation, traceparent, arrived_ns, scheduled_ns, decode_ns_at, ended_ns,
        gpu_ns, prefill_ns, decode_ns, wasted_ns, energy_uj, prefill_uj, decode_uj, gap_ns, energy_source, input_tokens,
        cached_tokens, output_tokens, computed_tokens, sequences, steps, batch_milli, preemptions, finish_reasons,
        method, finality, simulated, cost_nano, prefill_nano, decode_nano, currency, price_book)
    SELECT NULL, printf('r%09d', :number + s.i), printf('r%09d', :number + s.i), 'req-' || (:number + s.i), :engine, 1,
        1, 'aggregated', d.tenant, 'header', '', '{{}}', :model, 'chat', '', :window, :window + 1, :window + 2,
        :window + 3000000000 + s.i, s.ns, s.ns * (s.i % 7) / 9, s.ns - s.ns * (s.i % 7) / 9, 0, NULL, NULL, NULL,
        s.ns, 'none', 700 + s.i % 900, s.i % 300, 50 + s.i % 400, 900, 1, 40, 9000, 0, '["stop"]', 'roofline', 'final',
        1, {COST}, {COST} / 3, {COST} - {COST} / 3, 'USD', :book
    FROM share s JOIN draw d ON d.n = (:number + s.i) % :draws ORDER BY s.i
"""
METER = """
    INSERT INTO meter VALUES (:engine, :device, :begin, :end, :window, :busy, :end - :begin - :busy, 0, 0, 0, NULL,
        :end - :begin, 'none', '')
"""
COMMANDS = {
    "report by tenant and model": ("report", "--by", "tenant,model", "--format", "csv"),
    "report by day": ("report", "--by", "day", "--format", "csv"),
    "requests, dearest": ("requests", "--dearest", "--limit", "20", "--format", "json"),
    "statement of one tenant": ("statement", "--tenant", "tenant-0007", "--period", "2026-11", "--policy", "weighted"),
    "statements of all tenants, CSV": ("statement", "--all", "--period", "2026-11", "--format", "csv"),
    "policies side by side": ("policies", "--period", "2026-11", "--format", "csv"),
    "FOCUS, allocation view": ("focus", "--period", "2026-11", "--policy", "weighted"),
    "FOCUS, service view": ("focus", "--period", "2026-11", "--policy", "weighted", "--view", "service"),
    "verify": ("verify", "--format", "json"),
}


def fill(home, records):
    """Rows by SQL of ours, in the ledger's own tables: what is measured is reading. In balance by construction."""
    ledger = Ledger(home / "ledger.sqlite")
    db, rng = ledger.connection, random.Random(5)
    db.execute("PRAGMA synchronous = OFF")
    pools = list(RATES)
    with ledger.transaction():
        for rate in RATES.values():
            ledger.put_rate(rate)
        for n in range(ENGINES):
            ledger.put_engine(
                EngineRow(
                    engine_id=f"engine-{n:02d}", host="bench", boot_id="b", engine="simulator", version="1",
                    model=f"model-{n % 10}", role="aggregated", dp_rank=0, devices=(f"GPU-{n}",),
                    device_name=pools[n % 2], device_kind="gpu", simulated=True, started_wall_ns=START_NS, started_ns=0,
                    ended_ns=WINDOWS * HOUR_NS, end_reason="shutdown",
                )
            )  # fmt: skip
            ledger.put_position(f"engine-{n:02d}", Position(1, 1, 1), done=True)
    per_window = max(1, records // (WINDOWS * ENGINES))
    indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    indexes = [(name, sql) for name, sql in indexes if name.startswith(("posting_", "usage_"))]
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    each, rest = divmod(BUSY_NS, per_window)
    shares = [(i, each + (i < rest), i * each + min(i, rest)) for i in range(per_window)]
    db.execute("CREATE TEMP TABLE share (i INTEGER PRIMARY KEY, ns INTEGER, before INTEGER)")
    db.executemany("INSERT INTO share VALUES (?, ?, ?)", shares)
    drawn = [(n, f"tenant-{int(rng.paretovariate(1)) * 7 % TENANTS:04d}") for n in range(DRAWS)]
    db.execute("CREATE TEMP TABLE draw (n INTEGER PRIMARY KEY, tenant TEXT)")
    db.executemany("INSERT INTO draw VALUES (?, ?)", drawn)
    number = 0
    for k in range(WINDOWS):
        with ledger.transaction():
            for n in range(ENGINES):
                rate = RATES[pools[n % 2]]
                given = {
                    "engine": f"engine-{n:02d}", "device": f"GPU-{n}", "model": f"model-{n % 10}", "rate": rate[0],
                    "above": int(rate[4]), "below": int(rate[5]), "window": START_NS + k * HOUR_NS, "book": rate[1],
                    "begin": k * HOUR_NS, "end": (k + 1) * HOUR_NS, "busy": BUSY_NS, "number": number, "draws": DRAWS,
                }  # fmt: skip
                for statement in (REQUESTS, IDLE, USAGE, METER):
                    db.execute(statement, given)
                number += per_window
    for _, sql in indexes:
        db.execute(sql)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    return number


def check(home, records):
    """What the report says is what was put in: requests, output tokens, device time, money."""
    words = ("report", "--by", "device", "--format", "json", "--home", str(home))
    report = json.loads(subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=True).stdout)
    lines = {row["device"]: row for row in report["summary"] if row["kind"] == "request"}
    per_window = records // (WINDOWS * ENGINES)
    for pool, rate in RATES.items():
        above, below, windows = int(rate[4]), int(rate[5]), WINDOWS * ENGINES // 2
        ends = [(k * HOUR_NS, k * HOUR_NS + BUSY_NS) for k in range(WINDOWS)]
        due = {
            "requests": per_window * windows,
            "output_tokens": sum(50 + i % 400 for i in range(per_window)) * windows,
            "gpu_ns": BUSY_NS * windows,
            "cost_nano": sum(end * above // below - begin * above // below for begin, end in ends) * ENGINES // 2,
        }
        assert {name: lines[pool][name] for name in due} == due, pool


class Measured(NamedTuple):
    """One command, in a process of its own."""

    seconds: float
    megabytes: float
    """Peak memory."""
    digest: str
    """Digest of all that it wrote."""


def measure(words, out):
    """Run one command."""
    extra = ("--out", str(out)) if "--all" in words else ()
    code = (
        "import resource, subprocess, sys, json, time\nbegan = time.monotonic()\n"
        "done = subprocess.run(sys.argv[2:], stdout=open(sys.argv[1], 'wb'))\n"
        "print(json.dumps([done.returncode, time.monotonic() - began, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))"
    )
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, out / "stdout", SCRIPT, *words, *extra], capture_output=True, text=True, check=True
    )
    returned, seconds, megabytes = json.loads(done.stdout)
    assert returned == 0, (words, done.stderr)
    digest = hashlib.sha256()
    for file in sorted(out.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    shutil.rmtree(out)
    return Measured(seconds, megabytes, digest.hexdigest())


def size(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--clickhouse", action="store_true")
    parser.add_argument("--skip", action="append", default=[], metavar="WORD", help="leave out a command: verify")
    given = parser.parse_args()
    home = given.home or Path(tempfile.mkdtemp(prefix="bench-ledger-"))
    home.mkdir(parents=True, exist_ok=True)
    try:
        began = time.monotonic()
        records = fill(home, given.records)
        versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs"
        print(f"{records:,} simulated usage records, {versions}")
        print(f"load before: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
        print(f"filled in {time.monotonic() - began:.0f} s; ledger {size(home / 'ledger.sqlite'):,.0f} MB", flush=True)
        check(home, records)
        places = {"SQLite": ("--home", str(home))}
        if given.clickhouse:
            store = ("--store", f"chdb://{home / 'chdb'}")
            measure(("fleet", "init", *store), home / "out")
            pushed = measure(("fleet", "push", *store, "--home", str(home)), home / "out")
            print(
                f"pushed in {pushed.seconds:.0f} s ({2 * records / pushed.seconds:,.0f} rows/s), "
                f"peak {pushed.megabytes:,.0f} MB; store {size(home / 'chdb'):,.0f} MB",
                flush=True,
            )
            places["ClickHouse"] = store
        print(f"{'command':34}" + "".join(f"{name:>14} s{'MB':>8}" for name in places))
        for name, words in COMMANDS.items():
            if words[0] in given.skip:
                continue
            measured = [measure((*words, *place), home / "out") for place in places.values()]
            assert len({each.digest for each in measured}) == 1, f"{name}: the stores do not say the same"
            print(
                f"{name:34}" + "".join(f"{each.seconds:14.1f} s{each.megabytes:8.0f}" for each in measured), flush=True
            )
        print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
