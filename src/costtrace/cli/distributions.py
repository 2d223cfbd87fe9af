"""The other distributions of costtrace: how each is installed, and the store that one of them opens."""

from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from typing import Protocol

from costtrace.core.errors import CosttraceError
from costtrace.ledger.reader import Store

NEEDS = {
    "costtrace-board": ("costtrace-ui",),
    "costtrace-dynamo": ("costtrace-vllm",),
    "costtrace-lab": ("costtrace-ui", "costtrace-board", "costtrace-nvml-sim"),
}
"""What else of costtrace a distribution needs, beside the core."""
STORES = "costtrace.stores"
"""Group of entry points by which another distribution opens what `--store` names: ``fleet = module:open_store``."""


def pip_line(distribution: str) -> str:
    """Write the command that installs a distribution from a checkout: no package index has any of them yet."""
    return f"pip install {' '.join(f'./plugins/{name}' for name in (*NEEDS.get(distribution, ()), distribution))}"


class OpenStore(Protocol):
    """Opens the store at *dsn*, for one `with`. Raises: CosttraceError."""

    def __call__(self, dsn: str, *, password: str) -> AbstractContextManager[Store]:
        """Open it."""
        ...


def fleet_store() -> OpenStore:
    """What opens a fleet store. Raises: CosttraceError (costtrace-fleet is not installed, or cannot be loaded)."""
    for entry in entry_points(group=STORES, name="fleet"):
        try:
            opener: OpenStore = entry.load()
        except Exception as error:
            raise CosttraceError(f"no fleet store can be read: {entry.value!r} cannot be loaded: {error}") from error
        return opener
    line = pip_line("costtrace-fleet")
    raise CosttraceError(
        f"a fleet store is read by costtrace-fleet, which is not installed. In a checkout of costtrace: {line}. "
        "Or read the ledger of this node: give --home, and no --store"
    )
