"""Put an agent together and run it: what ``costtrace agent`` calls."""

import contextlib
import logging
import resource
import sys

from costtrace.agent.loop import Agent
from costtrace.agent.node_health import plugins, reratings, unrecorded
from costtrace.agent.publish_estimates import EstimatePublisher
from costtrace.agent.refuse_over_budget import BudgetRefusals
from costtrace.agent.sensing import sensing
from costtrace.config.settings import Settings
from costtrace.core.errors import CosttraceError
from costtrace.ledger.store import LEDGER_NAME
from costtrace.pricing.carbon import CarbonIntensity
from costtrace.pricing.carbon_file import load_intensity
from costtrace.telemetry import Emission, EmissionSettings


def run(settings: Settings, *, spawned: bool = False, once: bool = False) -> None:
    """Run an agent until it is stopped. *once*: book and send what the journals hold now, and return.

    Raises: AlreadyRunning, ConfigError, LedgerError, PriceBookError.
    """
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    emission = Emission(
        settings.home / LEDGER_NAME,
        EmissionSettings(
            profiles=frozenset(settings.compat_profiles),
            tenant_limit=settings.tenant_metric_limit,
            prometheus_host=settings.prometheus_host,
            prometheus_port=settings.prometheus_port,
            carbon=_carbon(settings),
        ),
    )
    # With --once nothing is sampled: what a device draws now belongs to no window of the journals.
    agent = Agent(settings, emission, spawned=spawned, sensing=None if once else sensing(settings))
    if once:
        agent.run_once()
        return
    emission.health.follow("plugin.lost_hooks", lambda: plugins(settings.home).lost_hooks)
    emission.health.follow("plugin.errors", lambda: plugins(settings.home).errors)
    emission.health.follow("engine.unrecorded", lambda: len(unrecorded(settings.home)))
    emission.health.follow("ledger.reratings", lambda: reratings(settings.home))
    threads = [each for each in (_refusals(settings, emission), _estimates(settings)) if each is not None]
    for thread in threads:
        thread.start()
    try:
        agent.run()
    finally:
        for thread in threads:
            thread.stop()


def _carbon(settings: Settings) -> CarbonIntensity | None:
    if not settings.carbon_intensity:
        return None
    try:
        return load_intensity(settings.carbon_intensity, settings.carbon_pue)
    except CosttraceError as error:  # an estimate is no reason to stop billing
        logging.getLogger("costtrace.agent").error("spans carry no CO2e: %s", error)  # noqa: TRY400 - it says it all
        return None


def _refusals(settings: Settings, emission: Emission) -> BudgetRefusals | None:
    if not settings.admission or settings.budgets is None:
        return None
    return BudgetRefusals(
        settings.home, settings.budgets, lambda number: emission.health.add("admission.refused", number)
    )


def _estimates(settings: Settings) -> EstimatePublisher | None:
    return None if settings.cost_estimates == "off" else EstimatePublisher(settings.home, settings.cost_estimates)
