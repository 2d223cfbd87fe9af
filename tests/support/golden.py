"""The files that older versions wrote (tests/golden), as a home of their own."""

import gzip
import sqlite3
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def restored(release, name, path):
    """The ledger as that release left it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(gzip.decompress((release / f"{name}.sql.gz").read_bytes()).decode())
    connection.close()
    return path
