"""The errors that people see. Each message names the input and the remedy.

* CosttraceError
  x ConfigError            a setting that cannot be used
  x JournalError           a journal that cannot be read or written
    + SchemaTooNew         written by a newer costtrace than this one
  x LedgerError            a ledger that cannot be read or written
    + LedgerTooNew         written by a newer costtrace than this one
  x PriceBookError         a price book that cannot be used
  x AlreadyRunning         a second agent on one COSTTRACE_HOME
  x ServerError            a server of the demo or of a test that does not start or stop

`EngineFailed` is none of them: the agent catches it, and goes on without that engine.
"""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
MORE_DESCRIPTORS = "Raise the limit of open files (`ulimit -n`, or `LimitNOFILE` of the systemd unit)."


class CosttraceError(Exception):
    """Base of all errors that costtrace raises."""


class ConfigError(CosttraceError):
    """A setting that cannot be used."""


class JournalError(CosttraceError):
    """A journal that cannot be read or written."""


class SchemaTooNew(JournalError):
    """A journal written by a newer costtrace than this one."""


class LedgerError(CosttraceError):
    """A ledger that cannot be read or written."""


class LedgerTooNew(LedgerError):
    """A ledger written by a newer costtrace than this one."""


class PriceBookError(CosttraceError):
    """A price book that cannot be used."""


class AlreadyRunning(CosttraceError):
    """Another agent holds the lock of this COSTTRACE_HOME."""


class EngineFailed(Exception):
    """The records of *names* (engines, or sensors' journals) have met an error, its cause; others are as they were."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(*names)
        self.names = tuple(names)


@contextmanager
def failing(names: Iterable[str]) -> Iterator[None]:
    """Any exception of the block is of *names*, but those that pass when the file or the host is well again.

    Raises: EngineFailed, JournalError, OSError, MemoryError.
    """
    try:
        yield
    except (JournalError, OSError, MemoryError):
        raise
    except Exception as error:
        raise EngineFailed(tuple(names)) from error


class ServerError(CosttraceError):
    """A server that the demo or a test runs did not start or stop as it should."""
