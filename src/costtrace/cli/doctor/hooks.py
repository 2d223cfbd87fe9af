"""Would the hooks fit this engine? Asked of the source of a package, which need not be importable here."""

from collections.abc import Iterator
from importlib import import_module, util
from pathlib import Path
from typing import NamedTuple

from costtrace.cli.distributions import pip_line
from costtrace.cli.doctor.findings import FAIL, OK, WARN, Finding

PACKAGES = {"vllm": "vllm", "tensorrt-llm": "tensorrt_llm", "dynamo": "dynamo"}
"""Name of each engine's package, as Python knows it."""
PLUGINS = {"vllm": "costtrace_vllm", "tensorrt-llm": "costtrace_tensorrt_llm", "dynamo": "costtrace_dynamo"}


def installed(engine: str) -> Path | None:
    """The folder of the package of *engine* in this environment, or None. Imports nothing of it."""
    spec = util.find_spec(PACKAGES[engine])
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


class HookFit(NamedTuple):
    """A hook, and whether it fits the engine's source."""

    hook: str
    where: str
    fits: str
    why: str


def fits(engine: str, package_dir: Path) -> list[HookFit]:
    """Every hook and whether it fits; none where the plugin or the package is missing."""
    try:
        contract = import_module(f"{PLUGINS[engine]}.contract")
    except ImportError:
        return []
    if not package_dir.is_dir():
        return []
    return [
        HookFit(
            check.hook.name,
            ".".join(filter(None, (check.hook.module, check.hook.owner, check.hook.function))),
            "yes" if check.ok else "no",
            check.why,
        )
        for check in contract.check_source(package_dir)
    ]


def check(engine: str, package_dir: Path) -> Iterator[Finding]:
    """Let the plugin of *engine* compare what it hooks with the source in *package_dir*."""
    plugin = PLUGINS[engine]
    try:
        contract = import_module(f"{plugin}.contract")
    except ImportError as error:
        yield Finding(
            "hooks",
            FAIL,
            f"the plugin for {engine} is not installed here: {error}",
            f"In a checkout of costtrace: {pip_line(plugin.replace('_', '-'))}",
        )
        return
    if not package_dir.is_dir():
        yield Finding(
            "hooks", FAIL, f"{package_dir} is not a directory", f"Name the directory of the package `{engine}` itself."
        )
        return
    checks = contract.check_source(package_dir)
    fitting = [each for each in checks if each.ok]
    if hasattr(contract, "summary"):
        yield Finding("hooks", OK, contract.summary(package_dir, checks))
    yield Finding("hooks", OK if fitting else FAIL, f"{len(fitting)} of {len(checks)} hooks fit {package_dir}")
    for name, means in contract.unsupported(package_dir) if hasattr(contract, "unsupported") else ():
        yield Finding("hooks", WARN, f"not supported in it: {name}", means)
    for each in checks:
        if not each.ok:
            optional = getattr(each.hook, "optional", False)  # only TensorRT-LLM's hooks may be
            yield Finding(
                "hooks",
                OK if optional else WARN,
                f"{each.hook.name} ({each.hook.module}) does not fit: {each.why}"
                + ("; nothing is lost" if optional else f"; lost: {each.hook.lost}"),
                "" if optional else "Use a version that this costtrace was tested on, or update costtrace.",
            )
