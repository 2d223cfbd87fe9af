"""Write the golden files of this release: what it leaves on a disk, for every later one to read.

    python tools/gen_golden.py [--out tests/golden/<version>]

Journals of all kinds of records; ledgers in the middle of an engine's life, at its end, closed and re-rated, and
compacted, as SQL (whatever SQLite they are read with); the DDL of the fleet store; a configuration, prices, tenants and
budgets. The same each time: clocks are set, lives come from seeds. Golden files of a release that is out are never
written again.
"""

import argparse
import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC
from pathlib import Path
from unittest.mock import patch

import msgspec
from costtrace_fleet.schema import Layout, statements
from costtrace_lab.engines.random_engine import Profile
from costtrace_lab.engines.schedules import WALL_OFFSET_NS, Life, random_life
from costtrace_lab.simulator.journals import _OpenState

import costtrace
from costtrace.agent.loop import Agent
from costtrace.config import load as config
from costtrace.core import clock
from costtrace.core.clock import Anchor
from costtrace.core.events import (
    AnyEvent,
    DeviceSeen,
    EngineReady,
    EngineStarted,
    Lost,
    Reading,
    SegmentHeader,
    SequenceAdded,
    Snapshot,
    Step,
)
from costtrace.core.units import NS_PER_HOUR, NS_PER_MS, NS_PER_S
from costtrace.journal.writer import JournalWriter
from costtrace.ledger.periods.close import close_period, parse_period
from costtrace.ledger.periods.compact import compact_period
from costtrace.ledger.periods.rerate import rerate
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.pricing.price_book_file import load_price_book

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
BOOT_ID = "90000000-0000-4000-8000-000000000000"
"""Of no real boot: to every reader of these journals, their host has restarted since."""
CUT_NS = 5 * NS_PER_S
"""When the agent that wrote half.sql.gz was ended."""
SENSORS_ID = "sensors-golden-1"
DEVICES = ("GPU-0", "GPU-1")
DAY = "2027-01-15"
FRAME_EVENTS = 40

CONFIG = """\
# As an operator of this release may have written it.
prices: prices.yaml
tenants: tenants.yaml
budgets: budgets.yaml
window_s: 2
head_fee: request
prefix_sharing: tree
attribution: roofline
linger_ms: 200
tenant_headers: [x-costtrace-tenant]
tenant_trusted_peers: [127.0.0.0/8, 10.20.0.0/16]
journal_delete: false
prometheus_port: 0
"""
PRICES = """\
version: golden-1
currency: USD
devices:
  - {match: "Simulated GPU", per_gpu_hour: 2.4817, includes_energy: false, from: 2026-11-01, source: invented}
electricity:
  - {per_kwh: 0.1379, pue: 1.21, from: 2026-11-01, source: invented}
"""
TENANTS = """\
tenants:
  - {name: ant, organisation: hill, team: search, cost_centre: "4711", labels: {environment: production}}
  - {name: bee, organisation: hive}
"""
BUDGETS = """\
currency: USD
budgets:
  - {name: ant-month, tenant: ant, amount: 5000, period: month, soft_percent: 80}
  - {name: all-rolling, amount: 12.5, rolling_days: 30}
"""
SETTINGS_FILES = {"costtrace.yaml": CONFIG, "prices.yaml": PRICES, "tenants.yaml": TENANTS, "budgets.yaml": BUDGETS}


def lives() -> list[Life]:
    """Two engines that share a device for a while; between them all that an engine records."""
    calm = Profile(
        arrivals=0.25,
        max_running=8,
        prompt_tokens=300,
        output_tokens=24,
        speculative=0.05,
        stop_string=0.3,
        documents=2,
    )
    first = random_life(8, rounds=150, devices=DEVICES, profile=calm)
    second = random_life(9, rounds=60, devices=DEVICES[1:], started_ns=2 * NS_PER_S, profile=calm, says_goodbye=False)
    return [Life(each.engine_id, list(_enriched(each.events)), each.engine) for each in (first, second)]


def _enriched(events: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
    """*events* with what a random life never says: trace contexts, labels, encoder work, lost steps."""
    lost = False
    for event in events:
        match event:
            case SequenceAdded(slot=slot):
                yield msgspec.structs.replace(
                    event,
                    traceparent=f"00-{slot + 1:032x}-{slot + 1:016x}-01" if slot % 2 else "",
                    user=f"u{slot % 3}",
                    labels={"route": "/golden", "n": str(slot % 4)} if slot % 3 else {},
                    arrived_ns=event.at_ns - 3 * NS_PER_MS,
                    attempt=2 if slot % 7 == 3 else 1,
                )
            case Step(items=items, index=index) if items and index % 5 == 0:
                yield msgspec.structs.replace(event, encoder=((items[0][0], 64),))
            case Step(index=index, done_ns=at_ns) if index > 60 and not lost:
                lost = True
                yield event
                yield Lost(at_ns, 1, 0, "ring", from_ns=at_ns - NS_PER_MS, to_ns=at_ns)
            case _:
                yield event


def readings(until_ns: int) -> Iterator[AnyEvent]:
    """Two boards from before the first engine on: 300 W and more; one reading fails, one counter restarts."""
    for number, uuid in enumerate(DEVICES):
        yield DeviceSeen(
            uuid, NS_PER_S, "Simulated GPU", "gpu", "gpu", "nvml_counter", number, details={"limit": "700 W"},
            simulated=True,
        )  # fmt: skip
    for tick in range(1, (until_ns - NS_PER_S) // (100 * NS_PER_MS) + 1):
        at_ns = NS_PER_S + tick * 100 * NS_PER_MS
        for number, uuid in enumerate(DEVICES):
            fault = {(0, 30): "unreadable", (1, 45): "reset"}.get((number, tick), "")
            energy = 7_000_000 + tick * (30_000_000 + number * 4_000_000) + (tick * tick * 7_919) % 900_001
            yield Reading(
                uuid,
                at_ns,
                None if fault == "unreadable" else energy - (number * tick >= 45) * 1_000_000,
                310_000 + 997 * (tick % 17),
                "nvml_counter",
                fault=fault,
                simulated=True,
            )


class _Writer:
    """A journal that is being written, and how far it has come."""

    def __init__(self, home: Path, engine_id: str, events: list[AnyEvent]) -> None:
        state = _OpenState()

        def snapshot(sequence: int) -> Snapshot:
            return state.snapshot(sequence)

        self._take = state.take
        self._events = [event for event in events if not isinstance(event, SegmentHeader)]
        self._writer = JournalWriter(
            home,
            engine_id,
            snapshot,
            cap_bytes=1 << 30,
            segment_bytes=4_000,
            version=costtrace.__version__,
            fsync=False,
        )

    def upto(self, until_ns: int) -> None:
        """Append what happened before *until_ns*."""
        while self._events and _at(self._events[0]) < until_ns:
            frame = []
            while self._events and len(frame) < FRAME_EVENTS and _at(self._events[0]) < until_ns:
                frame.append(self._events.pop(0))
                self._take(frame[-1])
            self._writer.append(frame)

    def close(self) -> None:
        """Let go of it."""
        self._writer.close()


def _at(event: AnyEvent) -> int:
    if isinstance(event, (EngineStarted, EngineReady)):
        return 0
    return event.done_ns if isinstance(event, Step) else int(getattr(event, "to_ns", 0) or getattr(event, "at_ns", 0))


@contextmanager
def set_clocks() -> Iterator[None]:
    """Let everything that is written have the times and the host of the lives."""
    with ExitStack() as stack:
        anchor = Anchor(NS_PER_S, NS_PER_S + WALL_OFFSET_NS)
        stack.enter_context(patch.object(clock, "anchor", lambda: anchor))
        stack.enter_context(patch.object(clock, "host_name", lambda: "golden"))
        stack.enter_context(patch.object(clock, "boot_id", lambda: BOOT_ID))
        stack.enter_context(patch("costtrace.journal.writer.os.getpid", lambda: 1))
        stack.enter_context(patch("costtrace.ledger.store.time.time_ns", lambda: CUT_NS + WALL_OFFSET_NS))
        yield


def book(home: Path, files: Path, *, until_ns: int | None = None) -> None:
    """Run an agent on *home*, in the middle of the boot (*until_ns*) or after it."""
    settings = config.load({"home": home}, {"COSTTRACE_CONFIG": str(files / "costtrace.yaml")})
    if until_ns is None:
        Agent(settings).run_once()
        return
    with set_clocks(), patch("costtrace.agent.intake.Intake._limit_ns", lambda _: until_ns):
        Agent(settings).run_once()


def book_at_once(journal: Path, out: Path) -> None:
    """What an agent that was never ended makes of the journals.

    Its energy model had seen other windows when it shared the joules: their sums are the same, requests' parts are not.
    """
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(journal, Path(folder) / "journal")
        book(Path(folder), out)
        dump(Path(folder) / LEDGER_NAME, out / "whole.sql.gz")


def dump(ledger: Path, target: Path) -> None:
    """A ledger as SQL, from which `restored` of tests/test_golden_files.py makes it again."""
    opened = Ledger(ledger)
    version = opened.connection.execute("PRAGMA user_version").fetchone()[0]
    opened.connection.execute("UPDATE notice SET at_ns = ?", (CUT_NS + WALL_OFFSET_NS,))
    opened.connection.execute("UPDATE state SET value = X'31' WHERE name = 'writes'")  # else by the machine's speed
    text = "\n".join((f"PRAGMA user_version = {version};", *opened.connection.iterdump(), ""))
    opened.close()
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


def close_books(path: Path) -> None:
    """Close the day, charge it by higher prices, and give up its single rows."""
    ledger = Ledger(path)
    period = parse_period(DAY, UTC)
    now_ns = period.until_ns + NS_PER_HOUR
    close_period(ledger, DAY, period, now_ns)
    with tempfile.TemporaryDirectory() as folder:
        dearer = Path(folder) / "prices.yaml"
        dearer.write_text(PRICES.replace("golden-1", "golden-2").replace("2.4817", "2.6093"), encoding="utf-8")
        rerate(ledger, load_price_book(dearer), period, "the invoice was higher", now_ns)
    seal = close_period(ledger, "2027-01-16", parse_period("2027-01-16", UTC), now_ns + 48 * NS_PER_HOUR)
    assert seal.kind == "close"
    ledger.close()


def compact_books(path: Path) -> None:
    """Give up the single rows of the day."""
    from costtrace.ledger.reader import SqliteStore  # noqa: PLC0415 - beside its use
    from costtrace.ledger.verify.sealed_rows import seals  # noqa: PLC0415 - as above

    ledger = Ledger(path)
    now_ns = parse_period(DAY, UTC).until_ns + 96 * NS_PER_HOUR
    for seal in [each for each in seals(SqliteStore(ledger)) if each.kind == "close"]:
        compact_period(ledger, seal, now_ns)
    ledger.close()


def write_stores(out: Path) -> None:
    """The DDL of the fleet store, of one server and of a cluster."""
    for name, layout in (("fleet", Layout()), ("fleet-cluster", Layout(cluster="main"))):
        text = "".join(f"{statement};\n\n" for statement in statements(layout))
        (out / f"{name}.sql.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def write(out: Path) -> None:
    """Write all golden files into *out*, an empty folder."""
    write_stores(out)
    for name, text in SETTINGS_FILES.items():
        (out / name).write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        last_ns = max(_at(event) for life in lives() for event in life.events[1:])
        with set_clocks():
            writers = [_Writer(home, life.engine_id, life.events) for life in lives()]
            writers.append(_Writer(home, SENSORS_ID, list(readings(last_ns + NS_PER_S))))
            for writer in writers:
                writer.upto(CUT_NS)
        book(home, out, until_ns=CUT_NS - NS_PER_S)
        dump(home / LEDGER_NAME, out / "half.sql.gz")
        with set_clocks():
            for writer in writers:
                writer.upto(1 << 62)
                writer.close()
        book(home, out)
        dump(home / LEDGER_NAME, out / "ledger.sql.gz")
        close_books(home / LEDGER_NAME)
        dump(home / LEDGER_NAME, out / "closed.sql.gz")
        compact_books(home / LEDGER_NAME)
        dump(home / LEDGER_NAME, out / "compacted.sql.gz")
        book_at_once(home / "journal", out)
        shutil.copytree(home / "journal", out / "journal", ignore=shutil.ignore_patterns("writer.lock"))
    kinds = sorted({type(event).__name__ for event in journal_events(out / "journal")})
    (out / "written.json").write_text(
        json.dumps({"version": costtrace.__version__, "kinds": kinds}, indent=1) + "\n", encoding="utf-8"
    )


def journal_events(root: Path) -> Iterator[object]:
    """What the files themselves hold, before a reader unfolds it."""
    decode = msgspec.msgpack.Decoder(list[int | AnyEvent]).decode
    for path in sorted(root.glob("*/*.ctj")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at + 2 : at + 6], "little")
            yield from decode(data[at + 10 : at + 10 + size])[1:]
            at += 10 + size


def main() -> int:
    """Write the golden files of this version."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=GOLDEN / costtrace.__version__)
    out = parser.parse_args().out
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    write(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"wrote {out}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
