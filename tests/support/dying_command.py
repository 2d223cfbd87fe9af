"""A command of costtrace that is killed, as by kill -9, at a statement of its choice: no clock is asked when."""

import sys
import textwrap

_CODE = """
    import os, signal, sqlite3, sys
    from costtrace.ledger import store

    class Connection(sqlite3.Connection):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.set_trace_callback(self.look)

        def look(self, sql):
            global left
            left -= sql.lstrip().startswith(sys.argv[1])
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    left = int(sys.argv[2])
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=Connection, **options)
    from costtrace.cli.app import run
    sys.exit(run(sys.argv[3:]))
"""


def command_that_dies(statement, count, *words):
    """Run ``costtrace`` *words* until it is about to begin the SQL *statement* for the *count*-th time."""
    return [sys.executable, "-c", textwrap.dedent(_CODE), statement, str(count), *words]
