"""Whether the ledger was re-rated since: a figure for whoever compares metrics, which are not, with the bill."""

from pathlib import Path

from costtrace.core.errors import CosttraceError
from costtrace.ledger.queries import open_ledger


def reratings(home: Path) -> int:
    """How many there were. 0 where the ledger cannot be read now: other figures say so."""
    try:
        with open_ledger(home) as store:
            return int(next(store.rows("SELECT count(*) FROM rerate"))[0])
    except CosttraceError:
        return 0
