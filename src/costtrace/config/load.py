"""Where each setting's value comes from: command line, environment, one YAML file, default; in this order.

    key          environment                                             YAML file (COSTTRACE_CONFIG)
    window_s     COSTTRACE_WINDOW_S, or TRTLLM_COSTTRACE_WINDOW_S        window_s: 300

TensorRT-LLM forwards only ``TRTLLM_*`` variables to its workers, hence the second prefix; where both are set the plain
one counts. An empty variable counts as not set. A key that does not exist is an error that names the nearest one.

Engine processes import this: PyYAML is loaded only where a file is named.
"""

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from costtrace.config.settings import Settings
from costtrace.core.errors import ConfigError
from costtrace.core.guard import log

PREFIX = "COSTTRACE_"
WORKER_PREFIX = "TRTLLM_COSTTRACE_"
FILE_KEY = "config"
DEFAULT = "default"
COMMAND_LINE = "command line"
KEYS = tuple(Settings.model_fields)

REMOVED_VALUES = frozenset({("trtllm_tier", "T3"), ("trtllm_tier", "T5")})
"""Values that settings once had. Each counts as the default, with a warning: an old file still starts its engine."""
_OTHERS = re.compile(r"(NVML_SIM|TEST|PEERS)(_|$)")
"""Variables of the NVML simulator, the tests and the benchmarks: they have the prefix and are no settings."""

_PASSWORD = re.compile(r"://[^/\s]*@")
"""User and password in an address: replaced in messages."""
# Kubernetes describes each service of a namespace in variables; those of a service `costtrace...` look like settings.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class Explained(NamedTuple):
    """One setting: its value as text, and where the value is from."""

    key: str
    value: str
    source: str


class About(NamedTuple):
    """What the documentation shows of one setting."""

    group: str
    unit: str
    example: str
    text: str


class _Found(NamedTuple):
    value: object
    source: str
    base: Path | None = None
    """The folder that a relative path starts from; None: the working directory."""
    line: str = ""
    """`` (line 3)`` of the file."""


def load(overrides: Mapping[str, object] | None = None, env: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings. *overrides* are the flags of a command line by key; None is a flag that was not given.

    Raises: ConfigError, with one line per problem.
    """
    return _resolve(overrides, env)[0]


def explain(overrides: Mapping[str, object] | None = None, env: Mapping[str, str] = os.environ) -> list[Explained]:
    """All settings, each with its value and where that is from. Raises: ConfigError."""
    settings, items = _resolve(overrides, env)
    file = _config_file(env)
    rows = [] if file is None else [Explained(FILE_KEY, str(file.value), file.source)]
    for key in KEYS:
        source = items[key].source if key in items else DEFAULT
        rows.append(Explained(key, show(getattr(settings, key)), source))
    return rows


def home(env: Mapping[str, str] = os.environ) -> Path:
    """The directory that the engines and the agent of this node share. Raises: ConfigError."""
    return load(env=env).home


def about(key: str) -> About:
    """Describe the setting *key*."""
    field = Settings.model_fields[key]
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return About(str(extra["group"]), str(extra["unit"]), str(extra["example"]), field.description or "")


def default_home(env: Mapping[str, str] = os.environ) -> Path:
    """The home where none is set: ``$XDG_STATE_HOME/costtrace``, else ``~/.local/state/costtrace``."""
    state = env.get("XDG_STATE_HOME", "")
    if state.startswith("/"):
        return Path(state, "costtrace")
    user = env.get("HOME", "") or os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises without an account
    return Path(user if user.startswith("/") else "/", ".local", "state", "costtrace")


def show(value: object) -> str:
    """A value as it could be written in a variable."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={each}" for key, each in value.items()) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(int(value) if isinstance(value, int) else value)


def nearest(name: str, known: tuple[str, ...] = KEYS) -> str:
    """The known key that is nearest to *name*."""
    return get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]


def allowed(key: str) -> str:
    """A sentence on the values that a setting may have; '' where its type says it all."""
    schema = Settings.model_json_schema()["properties"][key]
    choices = schema.get("enum") or schema.get("items", {}).get("enum")
    if choices:
        return f"One of {', '.join(f'`{choice}`' for choice in choices)}. "
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if low is None:
        return ""
    above = "above" if "exclusiveMinimum" in schema else "from"
    return f"{above.capitalize()} {low}{f' to {high}' if high is not None else ''}. "


def _resolve(overrides: Mapping[str, object] | None, env: Mapping[str, str]) -> tuple[Settings, dict[str, _Found]]:
    problems: list[str] = []
    items = _from_file(env, problems)
    items.update(_from_env(env, problems))
    items.update(_from_flags(overrides or {}, problems))
    items = {key: _without_removed_value(key, item) for key, item in items.items()}
    values = {key: item.value for key, item in items.items()}
    values.setdefault("home", default_home(env))
    settings = None
    try:
        folders = {key: item.base for key, item in items.items() if item.base is not None}
        settings = Settings.model_validate(values, context=folders)
    except ValidationError as error:
        problems += _messages(error, items)
    if problems or settings is None:
        raise ConfigError("\n".join(problems))
    return settings, items


def _config_file(env: Mapping[str, str]) -> _Found | None:
    for prefix in (PREFIX, WORKER_PREFIX):
        name = f"{prefix}CONFIG"
        if env.get(name):
            return _Found(env[name], name)
    return None


def _from_file(env: Mapping[str, str], problems: list[str]) -> dict[str, _Found]:
    named = _config_file(env)
    if named is None:
        return {}
    try:
        from costtrace.config.yaml_file import load_mapping  # noqa: PLC0415 - an engine may have no PyYAML, and need none
    except ImportError:
        problems.append(f"{named.source}={named.value}: reading YAML needs PyYAML here: pip install pyyaml")
        return {}
    path = Path.cwd() / str(named.value)
    items: dict[str, _Found] = {}
    try:
        loaded = load_mapping(path, ConfigError, "the configuration file")
        for key, value in loaded.items():
            line = f" (line {loaded.lines[key]})"
            if key not in KEYS:
                problems.append(f"{path}: there is no setting {key!r}{line}. The nearest is {nearest(key)!r}.")
            elif value is not None:
                items[key] = _Found(value, str(path), path.parent, line)
    except ConfigError as error:
        problems.append(f"{named.source}: {error}")
    return items


def _from_env(env: Mapping[str, str], problems: list[str]) -> dict[str, _Found]:
    items: dict[str, _Found] = {}
    for prefix in (WORKER_PREFIX, PREFIX):
        for name, key, value in _variables(env, prefix):
            if key in KEYS:
                items[key] = _Found(value, name)
            elif key != FILE_KEY:
                problems.append(
                    f"environment: there is no setting {name}. "
                    f"The nearest is {prefix}{nearest(key, (*KEYS, FILE_KEY)).upper()}."
                )
    return items


def _variables(env: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name in sorted(env):
        value = env[name]
        key = name.removeprefix(prefix)
        linked = _SERVICE_LINK.search(name) or (name.endswith("_PORT") and _SERVICE_ADDRESS.match(value))
        if name.startswith(prefix) and value and not linked and not _OTHERS.match(key):
            yield name, key.lower(), value


def _from_flags(overrides: Mapping[str, object], problems: list[str]) -> dict[str, _Found]:
    items: dict[str, _Found] = {}
    for key, value in overrides.items():
        if key not in KEYS:
            problems.append(f"{COMMAND_LINE}: there is no setting {key!r}. The nearest is {nearest(key)!r}.")
        elif value is not None:
            items[key] = _Found(value, COMMAND_LINE)
    return items


def _without_removed_value(key: str, item: _Found) -> _Found:
    if (key, str(item.value)) not in REMOVED_VALUES:
        return item
    default = Settings.model_fields[key].default
    _warn_once(
        f"{_where(key, item)}={item.value!r}: this value was removed, {default!r} is used. "
        f"Remove the setting, or give it another value. {allowed(key).strip()}"
    )
    return item._replace(value=default)


@cache  # settings are read more than once in a process
def _warn_once(message: str) -> None:
    log.warning("costtrace: %s", message)


def _where(key: str, item: _Found) -> str:
    return item.source if item.source.endswith(key.upper()) else f"{item.source}: {key}"


def _messages(error: ValidationError, items: Mapping[str, _Found]) -> Iterator[str]:
    """For each wrong value: where it is from, what is (first) wrong with it and what would be right."""
    first = {str(problem["loc"][0]): problem for problem in reversed(error.errors(include_url=False))}
    for key, problem in reversed(first.items()):
        item = items.get(key, _Found("", DEFAULT))
        shown = _PASSWORD.sub("://***@", show(item.value if not isinstance(item.value, list) else tuple(item.value)))
        why = problem["msg"].removeprefix("Value error, ")
        hint = f" {choices}" if (choices := allowed(key).strip()) else ""
        yield f"{_where(key, item)}={shown[:200]!r}{item.line}: {why}.{hint} Example: {about(key).example}"
