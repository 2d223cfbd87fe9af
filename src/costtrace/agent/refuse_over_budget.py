"""Write which tenants are above a hard budget, for the servers of this node. A thread of its own; it reads the ledger.

Budgets of one model are ignored: a server would have to read a request's body to know which model it asks for.
"""

import json
from collections.abc import Callable
from pathlib import Path

from costtrace.agent.periodic import Periodic
from costtrace.capture.node_files import refusals
from costtrace.capture.node_files.refusals import EVERYBODY, LATEST_S, Refusal
from costtrace.core.errors import ConfigError, CosttraceError
from costtrace.core.guard import log
from costtrace.core.units import NS_PER_S
from costtrace.ledger.budgets.budget import HARD
from costtrace.ledger.budgets.file import load_budgets
from costtrace.ledger.budgets.status import budget_status
from costtrace.ledger.reader import open_ledger


class BudgetRefusals(Periodic):
    """Writes who is refused, every few seconds, from `start` to `stop`; counts what the servers have refused."""

    def __init__(self, home: Path, budgets: Path, count: Callable[[int], None]) -> None:
        super().__init__("admission", refusals.VALID_S)
        self._home = home
        self._budgets = budgets
        self._count = count
        self._counted: dict[str, int] = {}
        self._problem = ""

    def turn(self, now_ns: int) -> dict[str, Refusal]:
        """Write who is refused at *now_ns* (wall), and return it. Raises: OSError, CosttraceError.

        Of several budgets that refuse a tenant, the one that ends last is named: no retry succeeds before that.
        """
        budgets = [budget for budget in load_budgets(self._budgets) if budget.model is None]
        refused: dict[str, Refusal] = {}
        problem = ""
        with open_ledger(self._home) as store:
            for budget in budgets:
                try:
                    one = budget_status(store, budget, now_ns)
                except ConfigError as error:  # the other budgets still apply
                    problem = problem or f"nobody is refused for budget {budget.name}: {error}"
                    continue
                if one.state == HARD:
                    refusal = Refusal(budget.name, 0 if budget.rolling_days else one.until_ns // NS_PER_S)
                    name = EVERYBODY if budget.tenant is None else budget.tenant
                    refused[name] = max(refused.get(name, refusal), refusal, key=lambda each: each.ends_s or LATEST_S)
        refusals.write(self._home, refused, now_ns / NS_PER_S)
        self._log_once(problem)
        return refused

    def look(self, now_ns: int) -> None:
        """Write who is refused, and count who was."""
        try:
            self.turn(now_ns)
        except (OSError, CosttraceError) as error:
            self._log_once(f"nobody is refused for a budget: {error}")
        self._count_refused()

    def _count_refused(self) -> None:
        """Count what each server process has refused since the last round."""
        for path in (self._home / "run").glob("frontend-*.json"):
            try:
                total = sum(json.loads(path.read_text(encoding="utf-8")).get("refused", {}).values())
            except (OSError, ValueError, AttributeError, TypeError):
                continue  # its process has just ended, or another version wrote it
            if (new := total - self._counted.get(path.name, 0)) > 0:
                self._count(new)
            self._counted[path.name] = total

    def _log_once(self, problem: str) -> None:
        """Log a problem once, until it changes."""
        if problem and problem != self._problem:
            log.error("%s. Serving goes on; the agent tries again.", problem)
        self._problem = problem
