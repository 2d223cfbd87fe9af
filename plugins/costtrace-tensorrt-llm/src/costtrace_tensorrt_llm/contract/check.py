"""Does this TensorRT-LLM fit? Asked of live objects when an engine starts, and of source that is never imported.

`hook_points.HOOKS` says what is held on to. What does not fit is left out and said once; serving goes on.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from costtrace.capture.hooks import check as hook_check
from costtrace.capture.hooks.check import HookCheck, Source
from costtrace_tensorrt_llm.contract.hooks_by_version import HOOKS, STEPS, TIERS, Hook, covered

_FOREIGN = ("uvicorn.", "dynamo.")


Check = HookCheck[Hook]


def check_callable(function: Callable[..., Any] | None, hook: Hook) -> str:
    """Why *function* does not fit *hook*; '' where it does."""
    return hook_check.check_callable(function, hook.parameters, kind=hook.kind, anywhere=hook.anywhere, lenient=True)


def tier_of(fits: Iterable[str], version: str, wanted: str = "auto") -> tuple[str, str]:
    """The best tier that the hooks named *fits* allow, and why it is not the one that was *wanted* ('' where it is).

    ``auto`` wants ``T1``.
    """
    names, why = set(fits), ""
    for tier in _ladder(wanted):
        missing = [name for name in TIERS[tier] if name not in names]
        unfit = f"without the hook {', '.join(missing)}" if missing else ""
        if tier in STEPS:
            unfit = covered(version) or unfit
        if not unfit:
            return tier, why
        why = why or unfit
    return "none", why


_LADDERS = {"T1-native": ("T1-native", "T1", "T2"), "T2": ("T2",)}
"""Which tiers come into question, best first, where one is asked for by name."""


def _ladder(wanted: str) -> tuple[str, ...]:
    return _LADDERS.get(wanted, ("T1", "T1-native", "T2"))


def check_source(package_dir: Path) -> list[Check]:
    """Check every hook against the source of the package in *package_dir* (the folder ``tensorrt_llm``).

    Imports nothing. Hooks outside the package (uvicorn, Dynamo) are left out.
    """
    source = Source(package_dir)
    checks = [_check(source, hook) for hook in HOOKS if not hook.module.startswith(_FOREIGN)]
    fits = {check.hook.name for check in checks if check.ok}
    if "enqueue" in fits:
        checks = [check for check in checks if check.hook.name != "enqueue.1.0"]
    elif "enqueue.1.0" in fits:
        checks = [check for check in checks if check.hook.name != "enqueue"]
    version = version_of(package_dir)
    if outside := covered(version):
        checks = [
            check._replace(ok=False, why=outside) if check.ok and check.hook.tier in STEPS else check
            for check in checks
        ]
    return checks


def _check(source: Source, hook: Hook) -> Check:
    why = source.why_not(
        hook.module,
        hook.owner,
        hook.function,
        hook.parameters,
        kind=hook.kind,
        anywhere=hook.anywhere,
        fields=(*hook.reads, *hook.fields),
    )
    return HookCheck(hook, ok=not why, why=why)


def summary(package_dir: Path, checks: list[Check]) -> str:
    """One sentence on what would be used with that package."""
    version = version_of(package_dir)
    fits = [check.hook.name for check in checks if check.ok]
    tier, why = tier_of(fits, version)
    told = f"TensorRT-LLM {version or 'of unknown version'}: tier {tier} would be used"
    return told + (f" ({why})" if why else "")


def version_of(package_dir: Path) -> str:
    """Version of the package in *package_dir*, from its source; '' where it does not say."""
    try:
        text = (package_dir / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
    return found[1] if found else ""
