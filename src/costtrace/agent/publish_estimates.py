"""Write what requests have cost lately, for the servers of this node. A thread of its own; it only reads the ledger."""

from pathlib import Path

from costtrace.agent.periodic import Periodic
from costtrace.capture.node_files import cost_estimates
from costtrace.capture.node_files.cost_estimates import TENANT
from costtrace.core.errors import CosttraceError
from costtrace.core.guard import log
from costtrace.core.rows import Means
from costtrace.core.units import NS_PER_S
from costtrace.ledger.reader import open_ledger
from costtrace.ledger.recent_means import recent_means


class EstimatePublisher(Periodic):
    """Writes mean costs (`node_files.cost_estimates`) every few seconds, from `start` to `stop`."""

    def __init__(self, home: Path, scope: str) -> None:
        super().__init__("estimates", cost_estimates.VALID_S)
        self._home = home
        self._scope = scope
        self._problem = ""

    def turn(self, now_ns: int) -> list[Means]:
        """Write the means at *now_ns* (wall), and return them. Raises: OSError, CosttraceError."""
        with open_ledger(self._home) as store:
            means = recent_means(store, now_ns, by_tenant=self._scope == TENANT)
        cost_estimates.write(self._home, self._scope, means, now_ns / NS_PER_S)
        return means

    def look(self, now_ns: int) -> None:
        """Write the means; log a problem once, until it changes."""
        try:
            self.turn(now_ns)
            self._problem = ""
        except (OSError, CosttraceError) as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("answers will soon state no estimate of their cost: %s. The agent tries again.", error)
