"""The status file of a server process, for the agent and the doctor: hooks in place, and requests refused.

It is written with the first request or refusal: a launcher or a process that only inspects the model has none.
"""

import asyncio
import atexit
import os
from pathlib import Path

from costtrace.core.guard import guard
from costtrace_vllm.process import process

ROLE = "frontend"
"""As the file's name begins."""
REWRITE_AFTER_S = 1.0

_written_by = 0
"""The process that has written its file; a forked child writes one of its own."""
_rewrite_is_due = False


def write_once() -> None:
    """Write the file unless this process has. Raises: OSError."""
    if _written_by != os.getpid():
        _write()


def rewrite_soon() -> None:
    """Write the file with the count of refusals in a second, once for all calls until then.

    Raises: RuntimeError (not called from a running event loop).
    """
    global _rewrite_is_due  # noqa: PLW0603 - one timer a process
    if not _rewrite_is_due:
        _rewrite_is_due = True
        asyncio.get_running_loop().call_later(REWRITE_AFTER_S, _rewrite)


def _rewrite() -> None:
    global _rewrite_is_due  # noqa: PLW0603 - one timer a process
    _rewrite_is_due = False
    with guard("vllm.refusal"):
        _write()


def _write() -> None:
    global _written_by  # noqa: PLW0603 - once a process
    home = process.settings.home
    if _written_by != os.getpid():
        _written_by = os.getpid()
        atexit.register(_remove, home, _written_by)
    process.status.write(home, ROLE, refused=process.refusals.counts)


def _remove(home: Path, pid: int) -> None:
    if os.getpid() == pid:
        with guard("vllm.status"):
            process.status.remove(home, ROLE)
