"""All fuzz targets by name, and one try of one of them."""

import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fuzz_clients import CLIENT_TARGETS
from fuzz_disk import DISK_TARGETS
from fuzz_files import FILE_TARGETS
from hypothesis.strategies import SearchStrategy

SECONDS = 20
"""What takes longer hangs."""


class Target(NamedTuple):
    """What a parser is given, and the function that gives it and checks what comes out."""

    inputs: SearchStrategy[Any]
    check: Callable[[Any, Path], None]


TARGETS = {name: Target(*pair) for name, pair in {**FILE_TARGETS, **CLIENT_TARGETS, **DISK_TARGETS}.items()}


@contextmanager
def within(seconds: int):
    """Raise AssertionError in the block once it has taken *seconds*."""

    def hang(*_: object) -> None:
        raise AssertionError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(target: Target, given: Any, folder: Path) -> None:
    """One try. Raises: whatever the parser lets out; AssertionError where an invariant does not hold."""
    with within(SECONDS):
        target.check(given, folder)
