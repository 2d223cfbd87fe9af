"""The one place that swallows errors, so that costtrace never harms serving.

A site that fails is logged once with its traceback, then only counted. In tests (`strict`) it raises.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("costtrace")

failures: Counter[str] = Counter()
"""Swallowed errors by site, since the process began."""

_strict = False
_lock = threading.Lock()


def strict(on: bool = True) -> None:  # noqa: FBT001, FBT002 - reads as a switch: strict(), strict(False)
    """Raise errors instead of swallowing them. For tests."""
    global _strict  # noqa: PLW0603 - a process-wide switch is what this is
    _strict = on


def swallow(site: str, error: BaseException) -> None:
    """Count and, the first time at this site, log an error that must not reach the engine."""
    if _strict:
        raise error
    with _lock:
        failures[site] += 1
        first = failures[site] == 1
    if first:
        log.error(
            "costtrace: %s failed; serving goes on, this part of the bill may be missing. Further failures here are "
            "counted (`costtrace doctor` shows them) and not logged.",
            site,
            exc_info=error,
        )


@contextmanager
def guard(site: str) -> Iterator[None]:
    """Swallow the errors of a block. *site* names it in the log and in `failures`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - this is the boundary
        swallow(site, error)
