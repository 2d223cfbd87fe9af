"""The settings of an engine's process, read once. A bad one must not keep an engine from serving."""

import os
from functools import lru_cache
from pathlib import Path

from costtrace.config import load as config
from costtrace.config.settings import Settings
from costtrace.core.errors import ConfigError
from costtrace.core.guard import log


@lru_cache(maxsize=1)
def current() -> Settings:
    """All settings; the defaults where one of them cannot be used, which is said once a process.

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
