"""What a plugin keeps for one process: settings, tenancy, refusals, estimates, and the status of its hooks.

Everything but the status is made when it is first asked for: TensorRT-LLM forwards variables to its workers only after
they have been imported.
"""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from costtrace.capture.node_files.cost_estimates import EstimateReader
from costtrace.capture.node_files.process_status import HookStatus
from costtrace.capture.node_files.refusals import RefusalReader
from costtrace.capture.tenancy.identity import TenancyPolicy
from costtrace.capture.tenancy.policy import policy_of
from costtrace.config import load as config
from costtrace.config.settings import Settings
from costtrace.core.errors import ConfigError
from costtrace.core.guard import guard, log


class EngineProcess:
    """One plugin in one process of an engine. A plugin has one of these, in its module `process`."""

    def __init__(
        self, engine: str, version: Callable[[], str], *, remedy: str = "`costtrace doctor` shows it."
    ) -> None:
        self.status = HookStatus(engine, version, remedy=remedy)

    @cached_property
    def settings(self) -> Settings:
        """All settings; see `read_settings`."""
        return read_settings()

    @cached_property
    def tenancy(self) -> TenancyPolicy:
        """Who pays for which request.

        With unusable settings, the policy of the default settings: only loopback and unix sockets are trusted.
        """
        with guard("tenant settings"):
            return policy_of(self.settings)
        return TenancyPolicy()

    @cached_property
    def estimates(self) -> EstimateReader:
        """What requests have cost until now, by the agent's file."""
        return EstimateReader(self.settings.home, self.settings.cost_estimates)

    @cached_property
    def refusals(self) -> RefusalReader:
        """Which tenants are refused now, by the agent's file."""
        return RefusalReader(self.settings.home)

    def forget(self) -> None:
        """Drop all but the status: each is made again on next use. For tests that change the environment."""
        for name in ("settings", "tenancy", "estimates", "refusals"):
            self.__dict__.pop(name, None)


def read_settings() -> Settings:
    """Read all settings; the defaults where one of them cannot be used, which is logged.

    Each has two names, ``COSTTRACE_*`` and ``TRTLLM_COSTTRACE_*``: TensorRT-LLM forwards only the latter to its ranks.
    """
    try:
        return config.load()
    except ConfigError as error:
        log.error("costtrace: %s\nUntil that is put right, this process records with the default settings.", error)
        for name in ("COSTTRACE_HOME", "TRTLLM_COSTTRACE_HOME"):
            if os.environ.get(name, "").startswith("/"):
                return Settings(home=Path(os.environ[name]))
        return Settings(home=config.default_home())
