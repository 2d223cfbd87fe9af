"""Workloads: requests with arrival times and lengths, from public traces, plain CSV, and ServeGen (`servegen`)."""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from costtrace.core.errors import CosttraceError
from costtrace_lab.simulator.servegen import ServeGenOptions, clients_in, draw

Raw = TypeVar("Raw")
MOONCAKE_BLOCK = 512
"""Tokens of a prompt that one hash of a Mooncake trace stands for."""


class Arrival(NamedTuple):
    """One request of a workload."""

    at_s: float
    """Seconds after the start of the workload."""
    prompt_tokens: int
    output_tokens: int
    tenant: str = "default"
    prefix: tuple[int, ...] = ()
    """Names of the leading blocks of its prompt; equal names mean equal content."""
    cached_tokens: int = 0
    """Tokens of its prompt that count as cached, as measured, whatever the simulator's own cache holds."""


def read_workload(
    path: Path, *, requests: int | None = None, speed: float = 1.0, servegen_options: ServeGenOptions | None = None
) -> list[Arrival]:
    """Read the first *requests* of a trace, in the order of arrival, *speed* times as fast. Raises: CosttraceError.

    Known: the Azure LLM inference traces, Mooncake's (JSON lines), a directory of ServeGen clients (each a tenant),
    and CSV with the columns ``at_s,prompt_tokens,output_tokens`` and perhaps ``tenant``.
    """
    if speed <= 0:
        raise CosttraceError(f"a workload cannot run {speed} times as fast: the speed must be greater than 0")
    try:
        arrivals = sorted(_read(path, servegen_options), key=lambda arrival: arrival.at_s)[:requests]
    except (OSError, UnicodeDecodeError) as error:
        raise CosttraceError(f"cannot read the workload {path}: {error}") from error
    if not arrivals:
        raise CosttraceError(f"the workload {path} has no requests in it")
    first_s = arrivals[0].at_s
    return [arrival._replace(at_s=(arrival.at_s - first_s) / speed) for arrival in arrivals]


def _read(path: Path, servegen_options: ServeGenOptions | None) -> Iterator[Arrival]:
    if path.is_dir():
        for tenant, at_s, prompt, output in draw(clients_in(path), servegen_options or ServeGenOptions()):
            yield Arrival(at_s, prompt, output, tenant)
        return
    if path.suffix in {".jsonl", ".json"}:
        yield from _lines(path, _mooncake)
        return
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        names = tuple(rows.fieldnames or ())
        read = next((read for wanted, read in CSV_KINDS.items() if set(wanted) <= set(names)), None)
        if read is None:
            raise CosttraceError(
                f"{path} has the columns {', '.join(names) or '(none)'}: known are TIMESTAMP,ContextTokens,"
                "GeneratedTokens (Azure) and at_s,prompt_tokens,output_tokens[,tenant]"
            )
        for number, row in enumerate(rows, start=2):
            yield _checked(path, number, read, row)


def _checked(path: Path, number: int, read: Callable[[Raw], Arrival], raw: Raw) -> Arrival:
    try:
        arrival = read(raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CosttraceError(f"line {number} of {path} is not a request: {error!r}") from error
    if arrival.prompt_tokens < 1 or arrival.output_tokens < 0:
        raise CosttraceError(f"line {number} of {path} is not a request: it has no prompt, or less than no output")
    return arrival._replace(output_tokens=max(1, arrival.output_tokens))


def _lines(path: Path, read: Callable[[str], Arrival]) -> Iterator[Arrival]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _checked(path, number, read, line)


def _azure(row: dict[str, str]) -> Arrival:
    moment, _, fraction = row["TIMESTAMP"].partition(".")
    # Seven decimals, one more than `fromisoformat` accepts.
    seconds = datetime.fromisoformat(f"{moment}+00:00").timestamp() + float(f"0.{fraction.rstrip('Z+:') or 0}")
    return Arrival(seconds, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _plain(row: dict[str, str]) -> Arrival:
    tenant = row.get("tenant") or "default"
    return Arrival(float(row["at_s"]), int(row["prompt_tokens"]), int(row["output_tokens"]), tenant)


def _mooncake(line: str) -> Arrival:
    fields = json.loads(line)
    blocks = tuple(int(name) for name in fields.get("hash_ids", ()))
    tenant = str(fields.get("tenant") or "default")  # Mooncake's own traces have no tenants
    return Arrival(
        float(fields["timestamp"]) / 1e3, int(fields["input_length"]), int(fields["output_length"]), tenant, blocks
    )


CSV_KINDS: dict[tuple[str, ...], Callable[[dict[str, str]], Arrival]] = {
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): _azure,
    ("at_s", "prompt_tokens", "output_tokens"): _plain,
}
