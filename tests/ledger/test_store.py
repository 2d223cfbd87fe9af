"""Opening a ledger file: names of homes, file systems that cannot be written, and what an error advises."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from honest_ledger import write

from costtrace.core.errors import LedgerError
from costtrace.ledger.backup import back_up
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.store import LEDGER_NAME, Ledger, remedy

NAMES = ["a?x", "a?mode=memory", "b#c", "50%25", "100%", "sp ace", "ü", "new\nline", "\udcff", "a:b", "a&b=c", "'\""]


def notices(home):
    with closing(Ledger(home / LEDGER_NAME, read_only=True)) as ledger:
        return [row[0] for row in ledger.connection.execute("SELECT message FROM notice")]


@pytest.mark.parametrize("name", NAMES)
def test_a_home_of_any_name_has_its_own_ledger(tmp_path, name):
    home = tmp_path / name
    with closing(Ledger(home / LEDGER_NAME)) as ledger:
        ledger.notice("test", f"in {home}")
    assert notices(home) == [f"in {home}".encode(errors="backslashreplace").decode()]
    assert list(tmp_path.iterdir()) == [home]


def test_two_homes_whose_names_are_alike_up_to_a_question_mark_share_nothing(tmp_path):
    for name in ("a?x", "a?y"):
        with closing(Ledger(tmp_path / name / LEDGER_NAME)) as ledger:
            ledger.notice("test", name)
    assert [notices(tmp_path / name) for name in ("a?x", "a?y")] == [["a?x"], ["a?y"]]


def test_a_home_may_be_named_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(Ledger(Path("h?") / LEDGER_NAME)) as ledger:
        ledger.notice("test", "here")
    assert notices(tmp_path / "h?") == ["here"]


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77
shift
exec "$@"
"""


def on_a_read_only_mount(home, *command):
    """Run a command to which *home* is a read-only mount."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is missing: no mount can be made")
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", READ_ONLY, "sh", str(home), *command], capture_output=True, text=True, check=False
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this user may not mount")
    return done


def costtrace(home, *words):
    return on_a_read_only_mount(home, sys.executable, "-m", "costtrace", *words, "--home", str(home))


@pytest.fixture
def idle(tmp_path):
    """A ledger that nobody has open: there is no write-ahead log beside it."""
    write(tmp_path)
    assert not (tmp_path / f"{LEDGER_NAME}-wal").exists()
    return tmp_path


def test_an_idle_ledger_on_a_read_only_mount_is_read_as_elsewhere(idle):
    for words in (("report", "--format", "csv"), ("verify", "--format", "json"), ("requests", "--format", "csv")):
        there = subprocess.run(
            [sys.executable, "-m", "costtrace", *words, "--home", str(idle)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert costtrace(idle, *words).stdout == there.stdout != ""


def test_rows_that_are_only_in_the_log_are_never_left_out_on_a_read_only_mount(idle):
    """Read as if nobody wrote it, the file alone would give another answer."""
    with closing(sqlite3.connect(idle / LEDGER_NAME)) as connection:
        connection.execute("INSERT INTO notice (at_ns, subject, message) VALUES (1, 'a', 'b')")
        connection.commit()
        log = idle / f"{LEDGER_NAME}-wal"
        assert log.stat().st_size
        done = costtrace(idle, "verify")
        assert done.returncode == 0, done.stderr  # by the files that the writer keeps beside it
        kept = {path: path.read_bytes() for path in (idle / LEDGER_NAME, log)}
    elsewhere = idle / "copy"
    elsewhere.mkdir()
    for path, data in kept.items():
        (elsewhere / path.name).write_bytes(data)
    done = costtrace(elsewhere, "verify")
    assert done.returncode == 2
    assert "cannot open the ledger" in done.stderr
    assert "costtrace backup" in done.stderr


def test_the_doctor_and_the_journals_list_need_no_writable_home(idle):
    journal = idle / "journal" / "e"
    journal.mkdir(parents=True)
    for lock in (journal / "writer.lock", idle / "agent.lock"):
        lock.touch()
    done = costtrace(idle, "journal", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Read-only file system" not in costtrace(idle, "doctor").stdout


@pytest.fixture
def unlocked(idle, monkeypatch):
    """The ledger, where SQLite can make no file beside it, as on such a mount."""
    opened, access = Ledger._open, os.access

    def open_or_fail(ledger, *, read_only):
        if ledger._seen is None:
            raise sqlite3.OperationalError("unable to open database file")
        opened(ledger, read_only=read_only)

    monkeypatch.setattr(Ledger, "_open", open_or_fail)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    return idle


def grow(path):
    with path.open("ab") as file:
        file.write(b"x" * 4096)


def test_a_ledger_that_is_written_while_it_is_read_without_locks_is_not_believed(unlocked):
    with open_ledger(unlocked):
        pass
    for name in (LEDGER_NAME, f"{LEDGER_NAME}-wal"):
        with pytest.raises(LedgerError, match="was written while it was read"), open_ledger(unlocked):
            grow(unlocked / name)
        (unlocked / f"{LEDGER_NAME}-wal").unlink(missing_ok=True)
    ledger = Ledger(unlocked / LEDGER_NAME, read_only=True)
    os.utime(unlocked / LEDGER_NAME, ns=(1, 1))
    with closing(ledger), pytest.raises(LedgerError, match="was written while it was read"):
        back_up(ledger, unlocked / "copy.sqlite")
    assert not (unlocked / "copy.sqlite").exists()


def test_a_ledger_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / LEDGER_NAME
    monkeypatch.setattr("costtrace.ledger.store.put_in_place", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Ledger(path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    Ledger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(tmp_path / "none" / LEDGER_NAME, create=False)
    assert not (tmp_path / "none").exists()


def test_a_file_system_without_hard_links_can_hold_a_ledger(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    Ledger(tmp_path / LEDGER_NAME).close()
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_NAME]


def replace(path):
    path.with_name("other").write_bytes(path.read_bytes())
    path.with_name("other").rename(path)


@pytest.mark.parametrize(
    ("suffix", "happens", "expected"),
    [
        ("", Path.unlink, "deleted"),
        ("", lambda path: path.rename(path.with_name("elsewhere")), "moved away"),
        ("", replace, "replaced by another file"),
        ("", lambda path: path.write_bytes(b""), "cut to 0 bytes"),
        ("-wal", Path.unlink, "parted from its write-ahead log"),
        ("-shm", Path.unlink, "parted from its write-ahead log"),
        ("-wal", replace, "parted from its write-ahead log"),
    ],
)
def test_what_becomes_of_a_ledger_under_its_writer_is_seen(tmp_path, suffix, happens, expected):
    path = tmp_path / LEDGER_NAME
    ledger = Ledger(path)
    for _ in range(3):
        ledger.notice("test", "x" * 100_000)
        assert ledger.lost() == ""
        ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        Ledger(path, read_only=True).close()
        assert ledger.lost() == ""
    ledger.notice("test", "in the log")
    happens(Path(f"{path}{suffix}"))
    assert ledger.lost().startswith(expected)
    ledger.leave(ledger.lost())
    ledger.close()
    if expected == "cut to 0 bytes":
        assert path.read_bytes() == b""
    log = Path(f"{path}-wal")
    assert not log.exists() or suffix or not log.stat().st_size


def sqlite_error(name):
    error = sqlite3.OperationalError("it says")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (sqlite_error("SQLITE_FULL"), "Free some space"),
        (OSError(errno.ENOSPC, "no space"), "Free some space"),
        (sqlite_error("SQLITE_IOERR_SHMOPEN"), "permissions"),
        (sqlite_error("SQLITE_READONLY"), "permissions"),
        (OSError(errno.EROFS, "read-only"), "permissions"),
        (sqlite_error("SQLITE_BUSY"), "Another program holds it"),
        (sqlite_error("SQLITE_CORRUPT_INDEX"), "costtrace backup"),
        (sqlite_error("SQLITE_NOTADB"), "costtrace backup"),
        (sqlite3.OperationalError("anything"), "costtrace doctor"),
        (OSError("anything"), "costtrace doctor"),
    ],
)
def test_what_to_do_about_an_error_depends_on_it(error, advice):
    assert advice in remedy(error)
