"""What `costtrace doctor` finds: every check looks at this node as it is, changes nothing and sends no data.

`examine` runs all checks. A check that itself fails is a finding too: the doctor never ends with a traceback.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping

from costtrace.cli.doctor import engines, here, network
from costtrace.cli.doctor.findings import FAIL, Finding
from costtrace.config.settings import Settings
from costtrace.core.errors import CosttraceError
from costtrace.ledger.store import remedy


def examine(settings: Settings, env: Mapping[str, str]) -> list[Finding]:
    """Look at everything that can be looked at, in the order in which things go wrong."""
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("versions", here.versions),
        ("plugin", lambda: here.plugin(env)),
        ("plugin", lambda: here.tensorrt_llm(env)),
        ("home", lambda: here.home(settings)),
        ("clock", here.clock),
        ("agent", lambda: here.agent(settings)),
        ("engine", lambda: engines.journals(settings.home)),
        ("process", lambda: engines.processes(settings.home)),
        ("process", lambda: engines.unbilled(settings.home)),
        ("prices", lambda: engines.prices(settings)),
        ("ledger", lambda: engines.ledger(settings.home)),
        ("model", lambda: engines.models(settings.home)),
        ("collector", lambda: network.collector(env)),
        ("prometheus", lambda: network.prometheus(settings)),
    )
    return [finding for subject, check in checks for finding in _run(subject, check)]


def _run(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except CosttraceError as error:
        yield Finding(subject, FAIL, str(error), "As the message says.")
    except sqlite3.Error as error:
        yield Finding(subject, FAIL, f"cannot read the ledger: {error}", remedy(error))
    except Exception as error:  # noqa: BLE001 - whatever a broken node does to a check is a finding
        yield Finding(
            subject,
            FAIL,
            f"could not be checked: {type(error).__name__}: {error}",
            "If the message names no cause, please report it as a bug of costtrace.",
        )
