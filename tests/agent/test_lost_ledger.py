"""A ledger that another file takes the place of while an agent writes it."""

import sqlite3
from contextlib import closing

import pytest

from costtrace.agent.loop import Agent
from costtrace.config.settings import Settings
from costtrace.core.errors import LedgerError
from costtrace.ledger.store import LEDGER_NAME, Ledger


class Noting:
    """Telemetry that notes something in the ledger when it ends, as the cursor of spans does."""

    def __init__(self, path):
        self.ledger = Ledger(path)

    def stop(self):
        with self.ledger.transaction():
            self.ledger.put_state("noted", b"x" * 50_000)
        self.ledger.close()
        return True


def test_what_telemetry_notes_at_the_end_does_not_spoil_the_file_that_was_put_in_the_ledgers_place(tmp_path):
    agent = Agent(Settings(home=tmp_path, sensor="none"))
    path, backup = tmp_path / LEDGER_NAME, tmp_path / "backup.sqlite"
    agent.emission = Noting(path)
    with closing(sqlite3.connect(backup)) as other:
        agent.ledger.connection.backup(other)
    whole = backup.read_bytes()
    backup.replace(path)
    with pytest.raises(LedgerError, match="replaced"):
        agent._check_files()
    agent._close()
    log = tmp_path / f"{LEDGER_NAME}-wal"
    assert not log.exists() or not log.stat().st_size
    assert path.read_bytes() == whole
    with closing(Ledger(path)) as ledger:
        assert ledger.connection.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        assert ledger.connection.execute("SELECT count(*) FROM state WHERE name = 'noted'").fetchone()[0] == 0
