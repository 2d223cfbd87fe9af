"""How long reports and statements take on a large ledger, how large it is, and the same on ClickHouse beside it.

    python benchmarks/bench_ledger.py [--records 10000000] [--home DIR] [--clickhouse]

Fills a ledger with a simulated month (1 posting and 1 usage record a request, up to 1,000 tenants, 10 models, 2 pools),
then runs the real commands on it, each in a process of its own: wall time and peak memory are that process's.
--clickhouse pushes the same rows into an embedded ClickHouse (chdb) and runs the same commands there.
"""

import argparse
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

from costtrace.journal.reader import Position
from costtrace.ledger.store import Ledger
from costtrace.usage import EngineRow

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
COMMANDS = {
    "report by tenant and model": ("report", "--by", "tenant,model", "--format", "csv"),
    "report by day": ("report", "--by", "day", "--format", "csv"),
    "requests, dearest": ("requests", "--dearest", "--limit", "20", "--format", "json"),
    "statement of one tenant": ("statement", "--tenant", "tenant-0007", "--period", "2026-11", "--policy", "weighted"),
    "statements of all tenants, CSV": ("statement", "--all", "--period", "2026-11", "--format", "csv"),
    "policies side by side": ("policies", "--period", "2026-11", "--format", "csv"),
    "FOCUS, allocation view": ("focus", "--period", "2026-11", "--policy", "weighted"),
    "verify": ("verify",),
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
    number, left = 0, dict.fromkeys(range(ENGINES), 0)
    posting = f"INSERT INTO posting VALUES (NULL,{','.join('?' * 20)})"
    usage = None
    for k in range(WINDOWS):
        with ledger.transaction():
            postings, usages, meter = [], [], []
            for n in range(ENGINES):
                engine, pool, model = f"engine-{n:02d}", pools[n % 2], f"model-{n % 10}"
                rate, window_ns = RATES[pool], START_NS + k * HOUR_NS
                above, below = int(rate[4]), int(rate[5])
                busy = HOUR_NS * 6 // 10
                each, rest = divmod(busy, per_window)
                for i in range(per_window):
                    ns = each + (1 if i < rest else 0)
                    prefill = ns * (i % 7) // 9
                    nano, left[n] = divmod(left[n] + ns * above, below)
                    number += 1
                    record, tenant = f"r{number:09d}", f"tenant-{int(rng.paretovariate(1)) * 7 % TENANTS:04d}"
                    postings.append(
                        (window_ns, engine, "request", "", record, tenant, model, ns, prefill, ns - prefill, 0,
                         None, None, None, None, ns, "roofline", rate[0], nano, 0)
                    )  # fmt: skip
                    usages.append(
                        (record, record, f"req-{number}", engine, 1, 1, "aggregated", tenant, "header", "", "{}", model,
                         "chat", "", window_ns, window_ns + 1, window_ns + 2, window_ns + 3 * 10**9 + i, ns, prefill,
                         ns - prefill, 0, None, None, None, ns, "none", 700 + i % 900, i % 300, 50 + i % 400, 900, 1,
                         40, 9000, 0, '["stop"]', "roofline", "final", 1, nano, nano // 3, nano - nano // 3, "USD",
                         rate[1])
                    )  # fmt: skip
                idle = HOUR_NS - busy
                nano, left[n] = divmod(left[n] + idle * above, below)
                postings.append(
                    (window_ns, engine, "idle", "", "", "", "", idle, 0, 0, 0, None, None, None, None, idle, "",
                     rate[0], nano, 0)
                )  # fmt: skip
                meter.append(
                    (engine, f"GPU-{n}", k * HOUR_NS, (k + 1) * HOUR_NS, window_ns, busy, idle, 0, 0, 0, None, HOUR_NS,
                     "none", "")
                )  # fmt: skip
            db.executemany(posting, postings)
            if not usage:  # columns that came later are NULL
                names = [f'"{row[1]}"' for row in db.execute("PRAGMA table_info(usage)")][1 : len(usages[0]) + 1]
                usage = f"INSERT INTO usage ({', '.join(names)}) VALUES ({','.join('?' * len(names))})"
            db.executemany(usage, usages)
            db.executemany(f"INSERT INTO meter VALUES ({','.join('?' * 14)})", meter)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    return number


def measure(words, out):
    """Wall seconds and peak memory (MB) of one command, in a process of its own."""
    extra = ("--out", str(out)) if "--all" in words else ()
    code = (
        "import resource, subprocess, sys, json, time\nbegan = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(json.dumps([done.returncode, time.monotonic() - began, "
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPT, *words, *extra], capture_output=True, text=True, check=True
    )
    returned, seconds, megabytes = json.loads(done.stdout)
    shutil.rmtree(out, ignore_errors=True)
    assert returned == 0, (words, done.stderr)
    return seconds, megabytes


def size(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--clickhouse", action="store_true")
    given = parser.parse_args()
    home = given.home or Path(tempfile.mkdtemp(prefix="bench-ledger-"))
    home.mkdir(parents=True, exist_ok=True)
    try:
        began = time.monotonic()
        records = fill(home, given.records)
        versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs"
        print(f"{records:,} simulated usage records, {versions}")
        print(f"filled in {time.monotonic() - began:.0f} s; ledger {size(home / 'ledger.sqlite'):,.0f} MB")
        places = {"SQLite": ("--home", str(home))}
        if given.clickhouse:
            store = ("--store", f"chdb://{home / 'chdb'}")
            measure(("fleet", "init", *store), home / "out")
            seconds, megabytes = measure(("fleet", "push", *store, "--home", str(home)), home / "out")
            print(
                f"pushed in {seconds:.0f} s ({2 * records / seconds:,.0f} rows/s), peak {megabytes:,.0f} MB; "
                f"store {size(home / 'chdb'):,.0f} MB"
            )
            places["ClickHouse"] = store
        print(f"{'command':34}" + "".join(f"{name:>14} s{'MB':>8}" for name in places))
        for name, words in COMMANDS.items():
            found = [measure((*words, *place), home / "out") for place in places.values()]
            print(
                f"{name:34}" + "".join(f"{seconds:14.1f} s{megabytes:8.0f}" for seconds, megabytes in found), flush=True
            )
        print(f"peak of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    finally:
        if given.home is None:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
