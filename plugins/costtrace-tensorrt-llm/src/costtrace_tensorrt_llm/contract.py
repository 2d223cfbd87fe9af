"""Does this TensorRT-LLM fit? Asked of live objects when an engine starts, and of source that is never imported.

`hook_points.HOOKS` says what is held on to. What does not fit is left out and said once; serving goes on.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from costtrace_tensorrt_llm.hook_points import HOOKS, STEPS, TIERS, Hook, covered

_FOREIGN = ("uvicorn.", "dynamo.")


class HookCheck(NamedTuple):
    """How one hook fits."""

    hook: Hook
    ok: bool
    why: str
    """'' where it fits."""


def check_callable(function: Callable[..., Any] | None, hook: Hook) -> str:
    """Why *function* does not fit *hook*; '' where it does."""
    function = getattr(function, "__func__", function)  # of a static method
    if function is None:
        return "it does not exist"
    kind = "coroutine" if inspect.iscoroutinefunction(function) else "plain"
    kind = "generator" if inspect.isasyncgenfunction(function) else kind
    if kind != hook.kind:
        return f"its kind is {kind}, not {hook.kind}"
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "its signature cannot be read"
    kinds = [parameter.kind for parameter in found.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds[: len(hook.parameters) + 1]:
        # A decorator that takes anything and does not say what it is laid on: what it does name has to fit.
        named = [name for name in list(found)[: kinds.index(inspect.Parameter.VAR_POSITIONAL)] if name != "self"]
        return _compare(named, hook.parameters[: len(named)])
    return _compare(list(found), hook.parameters, hook.anywhere)


def check_fields(owner: type, hook: Hook) -> str:
    """Why objects of *owner* do not have the fields of *hook*; '' where nothing speaks against it."""
    declared = {name for base in owner.__mro__ for name in (*vars(base), *getattr(base, "__annotations__", ()))}
    missing = [name for name in hook.fields if name not in declared]
    return f"without {', '.join(missing)}" if missing else ""


def tier_of(fits: Iterable[str], version: str, wanted: str = "auto") -> tuple[str, str]:
    """The best tier that the hooks named *fits* allow, and why it is not the one that was *wanted* ('' where it is).

    ``auto`` wants ``T1``, and is never an estimate: those (``T3``, ``T5``) have to be asked for by name.
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


_LADDERS = {"T1-native": ("T1-native", "T1", "T2"), "T2": ("T2",), "T3": ("T3", "T5"), "T5": ("T5",)}
"""Which tiers come into question, best first, where one is asked for by name."""


def _ladder(wanted: str) -> tuple[str, ...]:
    return _LADDERS.get(wanted, ("T1", "T1-native", "T2"))


def check_source(package_dir: Path) -> list[HookCheck]:
    """Check every hook against the source of the package in *package_dir* (the folder ``tensorrt_llm``).

    Imports nothing. Hooks outside the package (uvicorn, Dynamo) are left out.
    """
    trees: dict[str, dict[str, ast.ClassDef]] = {}
    checks = [_check(package_dir, hook, trees) for hook in HOOKS if not hook.module.startswith(_FOREIGN)]
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


def summary(package_dir: Path, checks: list[HookCheck]) -> str:
    """One sentence on what would be used with that package."""
    version = version_of(package_dir)
    fits = [check.hook.name for check in checks if check.ok]
    tier, why = tier_of(fits, version)
    told = f"TensorRT-LLM {version or 'of unknown version'}: tier {tier} would be used"
    told += f" ({why})" if why else ""
    if tier == "none" and tier_of(fits, version, "T3")[0] != "none":
        told += "; COSTTRACE_TRTLLM_TIER=T3 or T5 would estimate"
    return told


def version_of(package_dir: Path) -> str:
    """Version of the package in *package_dir*, from its source; '' where it does not say."""
    try:
        text = (package_dir / "version.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
    return found[1] if found else ""


def _check(package_dir: Path, hook: Hook, trees: dict[str, dict[str, ast.ClassDef]]) -> HookCheck:
    if hook.module not in trees:
        trees[hook.module] = _classes(package_dir, hook.module)
    owner = trees[hook.module].get(hook.owner)
    if owner is None:
        return HookCheck(hook, ok=False, why=f"{hook.module} has no class {hook.owner}")
    why = _check_method(owner, hook) if hook.function else ""
    if not why:
        missing = [name for name in (*hook.reads, *hook.fields) if name not in _declared(owner)]
        why = f"without {', '.join(missing)}" if missing else ""
    return HookCheck(hook, ok=not why, why=why)


def _classes(package_dir: Path, module: str) -> dict[str, ast.ClassDef]:
    parts = module.split(".")[1:]
    for path in (package_dir.joinpath(*parts).with_suffix(".py"), package_dir.joinpath(*parts, "__init__.py")):
        if path.is_file():
            try:
                body = ast.parse(path.read_text(encoding="utf-8")).body
            except (SyntaxError, UnicodeDecodeError):
                return {}
            return {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    return {}


def _check_method(owner: ast.ClassDef, hook: Hook) -> str:
    for node in owner.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == hook.function:
            if isinstance(node, ast.AsyncFunctionDef) != (hook.kind != "plain"):
                return f"its kind is not {hook.kind}"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            return _compare([argument.arg for argument in arguments], hook.parameters, hook.anywhere)
    if hook.function == "__init__" and any("dataclass" in ast.unparse(mark) for mark in owner.decorator_list):
        fields = [
            node.target.id
            for node in owner.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
        return _compare(fields, hook.parameters)
    return "it does not exist"


def _declared(owner: ast.ClassDef) -> set[str]:
    """Names that the class declares, defines, or sets on itself."""
    names = set()
    for node in ast.walk(owner):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def _compare(found: list[str], wanted: tuple[str, ...], anywhere: tuple[str, ...] = ()) -> str:
    names = [name for name in found if name != "self"]
    if tuple(names[: len(wanted)]) == wanted:
        missing = [name for name in anywhere if name not in names]
        return f"without {', '.join(missing)}" if missing else ""
    return f"its parameters are ({', '.join(names)}), not ({', '.join(wanted)}, ...)"
