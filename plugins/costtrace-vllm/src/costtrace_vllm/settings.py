"""The settings of this process, read once. They are documented in core; a bad one must not keep vLLM from serving."""

import os
from functools import lru_cache
from pathlib import Path

from costtrace import config
from costtrace.errors import ConfigError
from costtrace.guard import log
from costtrace.settings import Settings


@lru_cache(maxsize=1)
def current() -> Settings:
    """All settings; the defaults where one of them cannot be used, which is said once a process."""
    try:
        return config.load()
    except ConfigError as error:
        log.error("costtrace: %s\nUntil that is put right, this process records with the default settings.", error)
        home = os.environ.get("COSTTRACE_HOME", "")
        return Settings(home=Path(home) if home.startswith("/") else config.default_home())
