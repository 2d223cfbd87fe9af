"""Workloads: requests with arrival times and lengths, from public traces, plain CSV, and ServeGen (`servegen`)."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from costtrace.core.errors import CosttraceError
from costtrace_lab.simulator.servegen import ServeGenOptions, clients_in, draw
from costtrace_lab.simulator.trace_numbers import MAX_TOKENS, count, stamp, time

Raw = TypeVar("Raw")
MOONCAKE_BLOCK = 512
"""Tokens of a prompt that one hash of a Mooncake trace stands for."""
QWEN_BLOCK = 16
"""Those of the traces of Qwen (Bailian)."""
TimeUnit = Literal["ms", "s"]


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
    block_tokens: int = MOONCAKE_BLOCK
    """Tokens behind one name of `prefix`."""


def read_workload(
    path: Path,
    *,
    requests: int | None = None,
    speed: float = 1.0,
    servegen_options: ServeGenOptions | None = None,
    block_tokens: int | None = None,
    time_unit: TimeUnit | None = None,
) -> list[Arrival]:
    """Read the first *requests* of a trace, in the order of arrival, *speed* times as fast. Raises: CosttraceError.

    Known: the Azure LLM inference traces, Mooncake's and Qwen's (JSON lines), a directory of ServeGen clients (each a
    tenant), and CSV with the columns ``at_s,prompt_tokens,output_tokens`` and perhaps ``tenant``. *block_tokens* and
    *time_unit* are of JSON lines; None: as these show them.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise CosttraceError(f"a workload cannot run {speed} times as fast: the speed must be greater than 0")
    if (block_tokens or time_unit) and (path.is_dir() or path.suffix not in LINES):
        raise CosttraceError(f"{path} is no trace of JSON lines: only these have blocks, and times without a unit")
    try:
        read = _read(path, servegen_options, block_tokens, time_unit)
        arrivals = sorted(read, key=lambda arrival: arrival.at_s)[:requests]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CosttraceError(f"cannot read the workload {path}: {error}") from error
    if not arrivals:
        raise CosttraceError(f"the workload {path} has no requests in it")
    first_s = arrivals[0].at_s
    return [arrival._replace(at_s=(arrival.at_s - first_s) / speed) for arrival in arrivals]


def _read(
    path: Path, servegen_options: ServeGenOptions | None, block_tokens: int | None, time_unit: TimeUnit | None
) -> Iterator[Arrival]:
    if path.is_dir():
        for tenant, at_s, prompt, output in draw(clients_in(path), servegen_options or ServeGenOptions()):
            yield Arrival(at_s, prompt, output, tenant)
        return
    if path.suffix in LINES:
        yield from _placed(path, list(_lines(path)), block_tokens, time_unit)
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
        for row in rows:
            yield _checked(path, rows.line_num, partial(_row, read), row)


def _checked(path: Path, number: int, read: Callable[[Raw], Arrival], raw: Raw) -> Arrival:
    try:
        arrival = read(raw)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise CosttraceError(f"line {number} of {path} is not a request: {error!r}") from error
    if arrival.prompt_tokens < 1:
        raise CosttraceError(f"line {number} of {path} is not a request: it has no prompt")
    return arrival._replace(output_tokens=max(1, arrival.output_tokens))


def _azure(row: dict[str, str]) -> Arrival:
    return Arrival(stamp(row["TIMESTAMP"]), count(row["ContextTokens"]), count(row["GeneratedTokens"]))


def _plain(row: dict[str, str]) -> Arrival:
    at_s, prompt, output = time(row["at_s"]), count(row["prompt_tokens"]), count(row["output_tokens"])
    return Arrival(at_s, prompt, output, _tenant(row.get("tenant")))


def _tenant(value: object) -> str:
    """Public traces have none. Raises: ValueError, for one that cannot be printed."""
    name = str(value or "default")
    if not name.isprintable():
        raise ValueError(f"the tenant {name!a:.60} cannot be printed")
    return name


def _row(read: Callable[[dict[str, str]], Arrival], row: dict[str, str]) -> Arrival:
    if None in row:
        raise ValueError("more cells than the header: is there a comma in a number?")
    return read(row)


LINES = {".jsonl", ".json"}
CSV_KINDS: dict[tuple[str, ...], Callable[[dict[str, str]], Arrival]] = {
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): _azure,
    ("at_s", "prompt_tokens", "output_tokens"): _plain,
}


class _Line(NamedTuple):
    """A line of JSON; `at_s` of its arrival is still in the file's own unit."""

    number: int
    arrival: Arrival
    chat: bool
    """Whether it names its chat, and the one before it, as Qwen's do."""

    def fits(self, size: int, *, partial: bool) -> bool:
        """Whether its names are those of blocks of *size* tokens; *partial*: a partial one always has a name."""
        tokens, names = self.arrival.prompt_tokens, len(self.arrival.prefix)
        return not names or names == -(-tokens // size) or (names == tokens // size and not partial)


def _lines(path: Path) -> Iterator[_Line]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, text in enumerate(lines, start=1):
            if text.strip():
                try:
                    fields = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise CosttraceError(f"line {number} of {path} is not a request: {error!r}") from error
                arrival = _checked(path, number, _parsed, fields)
                yield _Line(number, arrival, fields.keys() >= {"chat_id", "parent_chat_id"})


def _parsed(fields: dict[str, object]) -> Arrival:
    names = fields.get("hash_ids") or []
    if not isinstance(names, list) or any(type(name) is not int for name in names):
        raise ValueError(f"hash_ids is {names!r:.60}: no list of whole numbers")
    lengths = count(fields["input_length"]), count(fields["output_length"])
    return Arrival(time(fields["timestamp"]), *lengths, _tenant(fields.get("tenant")), tuple(names))


def _placed(
    path: Path, lines: Sequence[_Line], block_tokens: int | None, time_unit: TimeUnit | None
) -> Iterator[Arrival]:
    """The arrivals of a file, in seconds, with its block. Raises: CosttraceError."""
    block = _block(path, lines, block_tokens)
    per_s = 1.0 if (time_unit or _unit(path, lines, block)) == "s" else 1e3
    for line in lines:
        yield line.arrival._replace(at_s=line.arrival.at_s / per_s, block_tokens=block)


def _block(path: Path, lines: Sequence[_Line], stated: int | None) -> int:
    """Tokens of a block: as stated, else the known size that fits every line. Raises: CosttraceError."""
    sizes = (stated,) if stated else (MOONCAKE_BLOCK, QWEN_BLOCK)
    misfits = []
    for size in sizes:
        named = size == MOONCAKE_BLOCK and not stated
        if not (unfit := [line for line in lines if not line.fits(size, partial=named)]):
            return size
        misfits.append(unfit)
    in_all = {line.number for line in misfits[-1]}
    bad = next((line for line in misfits[0] if line.number in in_all), misfits[0][0])
    one = f"line {bad.number} of {path}: {bad.arrival.prompt_tokens:,} tokens in {len(bad.arrival.prefix):,} blocks"
    if stated:
        raise CosttraceError(f"{one}: these are not blocks of {stated} tokens (--block-tokens)")
    raise CosttraceError(
        f"{one}: neither blocks of {MOONCAKE_BLOCK} tokens (Mooncake) nor of {QWEN_BLOCK} (Qwen, Bailian) fit every "
        f"line. Say --block-tokens{_hint(lines)}"
    )


def _hint(lines: Sequence[_Line]) -> str:
    low, high = 1, MAX_TOKENS
    for tokens, names in ((line.arrival.prompt_tokens, len(line.arrival.prefix)) for line in lines):
        if names:
            low = max(low, -(-tokens // names))
        if names > 1:
            high = min(high, (tokens - 1) // (names - 1))
    if low > high:
        return ""
    power = 1 << (low - 1).bit_length()
    return f" ({power if power <= high else low} would fit all lines)"


def _unit(path: Path, lines: Sequence[_Line], block: int) -> TimeUnit:
    """The unit of the times: seconds in Qwen's form, milliseconds in Mooncake's. Raises: CosttraceError."""
    if all(line.chat for line in lines) or (block == QWEN_BLOCK and any(line.arrival.prefix for line in lines)):
        return "s"
    odd = next((line for line in lines if not line.arrival.at_s.is_integer()), None)
    if odd is not None:
        raise CosttraceError(
            f"line {odd.number} of {path}: the time {odd.arrival.at_s} has a fraction: are these milliseconds or "
            "seconds? Say --time-unit ms or --time-unit s"
        )
    return "ms"
