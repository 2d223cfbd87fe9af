"""The engines that were seen on a home: their journals, the processes with hooks, their prices, the ledger."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from costtrace.agent.node_health import unrecorded
from costtrace.capture.node_files.agent_lock import running
from costtrace.cli.doctor.findings import FAIL, OK, WARN, Finding, ago
from costtrace.config.settings import Settings
from costtrace.core import clock
from costtrace.core.clock import Anchor
from costtrace.core.errors import CosttraceError, JournalError
from costtrace.core.events import EngineStopped, Heartbeat, Position
from costtrace.core.rows import METHODS
from costtrace.core.units import NS_PER_S
from costtrace.journal.reader import JournalReader
from costtrace.journal.writer import segments_in
from costtrace.ledger.queries import fits
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import LEDGER_NAME, Ledger
from costtrace.pricing.price_book_file import load_price_book
from costtrace.reports.evidence.model import POOR_PPM, basis

STALE_S = 10
"""An engine writes a heartbeat twice a second."""
CLOCK_NS = 2 * NS_PER_S
SHOWN = 20
RECENT_S = 7 * 24 * 3600


class _Tail(NamedTuple):
    """What is in the newest segment of a journal."""

    alive: bool
    written_ns: int
    """When it was last written, by its newest heartbeat or its beginning (monotonic; 0: nothing was read)."""
    stopped: str
    boot_id: str
    anchor: Anchor | None


def journals(home: Path) -> Iterator[Finding]:
    """Look at each journal: whether its engine runs and writes, and whether an agent reads it."""
    root = home / "journal"
    # A directory that cannot be read must raise here, not be empty.
    names = os.listdir(root) if root.is_dir() else []  # noqa: PTH208 - as said
    directories = sorted((root / name for name in names if (root / name).is_dir()), reverse=True)
    if not directories:
        yield Finding(
            "engine",
            WARN,
            f"no engine has written a journal in {home}",
            "Start the engine with costtrace-vllm installed and the same COSTTRACE_HOME; its log says what the plugin "
            "did.",
        )
    alive = 0
    for directory in directories[:SHOWN]:
        try:
            tail = _tail(directory)
        except JournalError as error:
            yield Finding("engine", FAIL, str(error), "As the message says.")
            continue
        alive += tail.alive
        yield from _engine(directory.name, tail)
    if len(directories) > SHOWN:
        yield Finding("engine", OK, f"{len(directories) - SHOWN} older journals are not shown")
    if alive and not running(home):
        yield Finding(
            "engine",
            FAIL,
            f"{alive} engines write, and no agent reads: journals grow to their cap, then time becomes `unobserved`",
            "Start `costtrace agent`, or see agent.log why the plugin cannot.",
        )


def processes(home: Path) -> Iterator[Finding]:
    """Read what the plugin wrote in each process that it was loaded into."""
    for path in sorted((home / "run").glob("*.json")):
        try:
            process = json.loads(path.read_text(encoding="utf-8"))
            name = f"{process['role']} (pid {process['pid']})"
            ended = not Path("/proc", str(process["pid"])).exists() and Path("/proc/self").exists()
            lost, swallowed = dict(process.get("lost_hooks", {})), dict(process.get("swallowed_errors", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield Finding("process", WARN, f"{path} cannot be read: {error}", "It is only for this check: delete it.")
            continue
        if ended:
            summary = f"{len(lost)} hooks lost, {sum(swallowed.values())} errors kept away from the engine"
            yield Finding("process", OK, f"{name} is gone, or runs in another container ({path.name}): {summary}")
            continue
        version = process.get("engine_version") or process.get("vllm_version") or "unknown"
        engine = process.get("engine") or "vLLM"
        yield Finding("process", OK, f"{name}: {len(process.get('hooks', []))} hooks in place, {engine} {version}")
        for hook, why in lost.items():
            yield Finding(
                "process",
                WARN,
                f"{name}: hook {hook} does not fit: {why}",
                f"Use a {engine} that this costtrace was tested on.",
            )
        for site, count in swallowed.items():
            yield Finding(
                "process",
                WARN,
                f"{name}: {count} errors at {site} were kept from the engine: that part of the bill may be missing",
                "The engine's log has the first one with its traceback: please report it.",
            )


def unbilled(home: Path) -> Iterator[Finding]:
    """Name the vLLM engines of this host that run without the plugin, as far as they can be seen."""
    for pid, reason in unrecorded(home):
        remedy = "Start it again with `costtrace` in its VLLM_PLUGINS (or without that variable) and costtrace-vllm."
        yield Finding("process", FAIL, f"the vLLM engine with pid {pid} is not billed: {reason}", remedy)


def prices(settings: Settings) -> Iterator[Finding]:
    """Say which price each device that was seen has today."""
    if settings.prices is None:
        yield Finding(
            "prices",
            WARN,
            "no price book is set: time and energy are known, every cost is unknown",
            "Copy examples/prices/sample-2026-11.yaml, put your prices in and set COSTTRACE_PRICES.",
        )
        return
    try:
        book = load_price_book(settings.prices, settings.currency, settings.node_pool, settings.region)
    except CosttraceError as error:
        yield Finding("prices", FAIL, str(error), "`costtrace prices check` shows the next problem after each repair.")
        return
    if book.label:
        yield Finding(
            "prices",
            WARN,
            f"price book {book.name}: its prices are labelled `{book.label}`",
            "Put in what your devices cost you, and take the label out.",
        )
    else:
        yield Finding("prices", OK, f"price book {book.name}, {book.currency}, {settings.prices}")
    now_ns = time.time_ns()
    for name, kind in _devices(settings.home):
        entry = book.device_price(name, kind, now_ns)
        if missing := book.missing(name, kind, now_ns):
            yield Finding("prices", WARN, missing, "`costtrace prices show --device` shows what applies.")
        elif entry is not None:
            energy = "energy included" if entry.includes_energy else "energy billed on top"
            yield Finding(
                "prices", OK, f"{kind} {name!r}: {entry.per_gpu_hour} {book.currency} per hour, {energy} ({entry.name})"
            )


def ledger(home: Path) -> Iterator[Finding]:
    """Open the ledger and read what it notes for the operator."""
    path = home / LEDGER_NAME
    if not path.exists():
        yield Finding("ledger", WARN, f"there is no ledger at {path} yet", "An agent makes it when it first runs.")
        return
    with closing(Ledger(path, read_only=True)) as opened:
        query = opened.connection.execute
        postings, newest = query("SELECT max(posting_id), max(window_ns) FROM posting").fetchone()
        records = query("SELECT max(usage_id) FROM usage").fetchone()[0]
        when = f", newest window {ago(time.time() - newest / NS_PER_S)}" if newest else ""
        yield Finding("ledger", OK, f"{path}: {records or 0} requests, {postings or 0} postings{when}")
        since_ns = time.time_ns() - RECENT_S * NS_PER_S
        notices = query(
            "SELECT max(at_ns), subject, message, count(*) FROM notice WHERE at_ns > ? GROUP BY subject, message "
            "ORDER BY max(at_ns) DESC LIMIT ?",
            (since_ns, SHOWN),
        ).fetchall()
    for at_ns, subject, message, count in notices:
        times = f" ({count} times)" if count > 1 else ""
        yield Finding(
            "ledger",
            WARN,
            f"noted {ago(time.time() - at_ns / NS_PER_S)}{times}: {subject}: {message}",
            "As the note says.",
        )


def models(home: Path) -> Iterator[Finding]:
    """Say how the steps of the newest engines are shared, and where a model is not one to rely on."""
    if not (home / LEDGER_NAME).exists():
        return
    with open_ledger(home) as store:
        newest = fits(store, None, SHOWN)
    for fit in newest:
        row = fit.row
        errors = {name: getattr(row, f"{name}_error_ppm") for name in METHODS}
        error = errors.get(row.method)
        message = f"{row.engine_id}: {row.method}, {basis(fit)}" + (
            "" if error is None else f", error {error / 1e4:.1f} %"
        )
        if not row.fitted and not (row.device_known and row.shape_known):
            remedy = "A few hundred steps teach it. Until then time may be wrong between the requests of a step."
            yield Finding("model", WARN, message, remedy)
        elif row.fitted and error is not None and error > POOR_PPM:
            remedy = "`costtrace model` has the figures. Sums are right; the shares within a step are rough."
            yield Finding("model", WARN, message, remedy)
        else:
            yield Finding("model", OK, message)


def _engine(name: str, tail: _Tail) -> Iterator[Finding]:
    if not tail.alive:
        yield Finding("engine", OK, f"{name} has ended ({tail.stopped or 'without a reason in its journal'})")
        return
    age_s = (time.monotonic_ns() - tail.written_ns) / NS_PER_S
    if tail.boot_id != clock.boot_id():
        yield Finding("engine", OK, f"{name} writes; it runs on another host or boot, its age is not known here")
        return
    if not tail.written_ns or age_s > STALE_S:
        last = f"last written {ago(age_s)}" if tail.written_ns else "and nothing in it can be read"
        yield Finding(
            "engine",
            WARN,
            f"{name} holds its journal, {last}: it is stuck or stopped, or its disk is full",
            "See the engine's log. Its time since then shows as `unobserved`.",
        )
    else:
        yield Finding("engine", OK, f"{name} writes, last {ago(age_s)}")
    stepped_ns = tail.anchor.stepped(clock.anchor()) if tail.anchor else 0
    if abs(stepped_ns) > CLOCK_NS:
        yield Finding(
            "clock",
            WARN,
            f"the wall clock was set by {stepped_ns / NS_PER_S:+.0f} s since {name} began its newest segment: windows "
            "keep their length, their dates may be off by that",
            "Let NTP slew the clock instead of setting it.",
        )


def _tail(directory: Path) -> _Tail:
    """Read the newest segment of a journal (8 MB at most)."""
    reader = JournalReader(directory, Position(segment=max(segments_in(directory), default=0)), directory.name)
    written_ns, stopped, anchor = 0, "", None
    try:
        alive = not reader.writer_gone()
        while True:
            batch = reader.read()
            for event in batch.events:
                if isinstance(event, Heartbeat):
                    written_ns = event.at_ns
                elif isinstance(event, EngineStopped):
                    stopped = event.reason
            anchor = batch.anchor or anchor
            if not batch.events:
                break
        written_ns = written_ns or (reader.header.monotonic_ns if reader.header else 0)
    finally:
        reader.close()
    return _Tail(alive, written_ns, stopped, reader.header.boot_id if reader.header else "", anchor)


def _devices(home: Path) -> list[tuple[str, str]]:
    """Return name and kind of all devices that the ledger knows."""
    path = home / LEDGER_NAME
    if not path.exists():
        return []
    with closing(Ledger(path, read_only=True)) as opened:
        try:
            return [
                tuple(row) for row in opened.connection.execute("SELECT DISTINCT device_name, device_kind FROM engine")
            ]
        except sqlite3.Error:
            return []
