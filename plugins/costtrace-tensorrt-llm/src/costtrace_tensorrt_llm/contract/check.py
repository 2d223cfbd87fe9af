"""Does this TensorRT-LLM fit? Asked of live objects at start-up, and by the doctor of source that is never imported.

`hook_list.HOOKS` has what is hooked. A hook that does not fit is left out and logged once; serving goes on.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from costtrace.capture.hooks import check as hook_check
from costtrace.capture.hooks.check import HookCheck, Source
from costtrace_tensorrt_llm.contract.hook_list import HOOKS, STEPS, TIERS, Hook, why_outside

_OUTSIDE_THE_PACKAGE = ("uvicorn.", "dynamo.")
_FALLBACKS = {"T1-native": ("T1-native", "T1", "T2"), "T2": ("T2",)}
"""The tiers to try, best first, where one is asked for by name."""


def check_callable(function: Callable[..., Any] | None, hook: Hook) -> str:
    """Why *function* does not fit *hook*; '' where it does."""
    return hook_check.check_callable(function, hook.parameters, kind=hook.kind, anywhere=hook.anywhere, lenient=True)


def tier_of(fitting: Iterable[str], version: str, wanted: str = "auto") -> tuple[str, str]:
    """The best tier that the hooks named *fitting* allow, and why it is not the one that was *wanted* ('' if it is).

    ``auto`` wants ``T1``.
    """
    names, reason = set(fitting), ""
    for tier in _FALLBACKS.get(wanted, tuple(TIERS)):
        missing = [name for name in TIERS[tier] if name not in names]
        unfit = f"without the hook {', '.join(missing)}" if missing else ""
        if tier in STEPS:
            unfit = why_outside(version) or unfit
        if not unfit:
            return tier, reason
        reason = reason or unfit
    return "none", reason


def check_source(package_dir: Path) -> list[HookCheck[Hook]]:
    """Check every hook against the source of the package in *package_dir* (the folder ``tensorrt_llm``).

    Imports nothing. Hooks outside the package (uvicorn, Dynamo) are left out.
    """
    source = Source(package_dir)
    checks = [_check(source, hook) for hook in HOOKS if not hook.module.startswith(_OUTSIDE_THE_PACKAGE)]
    fitting = {check.hook.name for check in checks if check.ok}
    other_versions = "enqueue.1.0" if "enqueue" in fitting else "enqueue" if "enqueue.1.0" in fitting else ""
    outside = why_outside(version_of(package_dir))
    return [
        check._replace(ok=False, why=outside) if outside and check.ok and check.hook.tier in STEPS else check
        for check in checks
        if check.hook.name != other_versions
    ]


def _check(source: Source, hook: Hook) -> HookCheck[Hook]:
    named, fields = (hook.module, hook.owner, hook.function, hook.parameters), (*hook.reads, *hook.fields)
    why = source.why_not(*named, kind=hook.kind, anywhere=hook.anywhere, fields=fields)
    return HookCheck(hook, ok=not why, why=why)


def summary(package_dir: Path, checks: list[HookCheck[Hook]]) -> str:
    """One sentence on what would be used with that package."""
    version = version_of(package_dir)
    tier, why = tier_of([check.hook.name for check in checks if check.ok], version)
    return f"TensorRT-LLM {version or 'of unknown version'}: tier {tier} would be used" + (f" ({why})" if why else "")


def version_of(package_dir: Path) -> str:
    """Version of the package in *package_dir*, from its source; '' where it does not say."""
    try:
        text = (package_dir / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    match = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
    return match[1] if match else ""
