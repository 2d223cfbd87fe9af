"""Check that a function or class is as a plugin's hook expects: of live objects, and of source that is not imported."""

import ast
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

Kind = Literal["plain", "coroutine", "generator"]
H = TypeVar("H")


class HookCheck(NamedTuple, Generic[H]):
    """The result for one hook."""

    hook: H
    ok: bool
    why: str
    """'' where it fits."""


def check_callable(
    function: Callable[..., Any] | None,
    parameters: tuple[str, ...],
    *,
    kind: Kind | None = "plain",
    anywhere: tuple[str, ...] = (),
    lenient: bool = False,
) -> str:
    """Why *function* does not fit; '' where it does.

    *parameters*: the first ones, without self, in this order. *anywhere*: names among the others. *kind* None: any.
    *lenient*: a function with ``*args`` (a decorator that does not copy its target's signature) fits if the parameters
    that it does name fit.
    """
    if function is None:
        return "it does not exist"
    if why := _why_not_kind(_kind_of(function), kind):
        return why
    try:
        actual = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "its signature cannot be read"
    kinds = [parameter.kind for parameter in actual.values()]
    if lenient and inspect.Parameter.VAR_POSITIONAL in kinds[: len(parameters) + 1]:
        named = [name for name in list(actual)[: kinds.index(inspect.Parameter.VAR_POSITIONAL)] if name != "self"]
        return compare(named, parameters[: len(named)])
    return compare(actual, parameters, anywhere)


def check_fields(owner: type, fields: Iterable[str]) -> str:
    """Why objects of *owner* do not have *fields*, by what its classes declare; '' where all are declared."""
    return _missing(fields, {n for base in owner.__mro__ for n in (*vars(base), *getattr(base, "__annotations__", ()))})


def compare(actual: Iterable[str], wanted: tuple[str, ...], anywhere: tuple[str, ...] = ()) -> str:
    """Why the parameters *actual* are not those *wanted*, with *anywhere* among the others; '' where they are."""
    names = [name for name in actual if name != "self"]
    if tuple(names[: len(wanted)]) != wanted:
        return f"its parameters are ({', '.join(names)}), not ({', '.join(wanted)}, ...)"
    return _missing(anywhere, names)


class Source:
    """The source of a package in a folder; each module is read on first use."""

    def __init__(self, package_dir: Path) -> None:
        self._package_dir = package_dir
        self._modules: dict[str, dict[str, ast.ClassDef]] = {}

    def why_not(
        self,
        module: str,
        owner: str,
        function: str,
        parameters: tuple[str, ...],
        *,
        kind: Kind = "plain",
        anywhere: tuple[str, ...] = (),
        fields: Iterable[str] = (),
    ) -> str:
        """Why the class *owner* of *module*, or its method *function* ('': none), does not fit; '' where it does."""
        if module not in self._modules:
            self._modules[module] = _classes(self._package_dir, module)
        definition = self._modules[module].get(owner)
        if definition is None:
            return f"{module} has no class {owner}"
        why = _check_method(definition, function, parameters, kind, anywhere) if function else ""
        return why or _missing(fields, _declared(definition))


def _kind_of(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return "generator"
    return "coroutine" if inspect.iscoroutinefunction(function) else "plain"


def _why_not_kind(actual: Kind, wanted: Kind | None) -> str:
    if wanted in {None, actual}:
        return ""
    if actual == "plain":
        return f"it is no {wanted} function"
    return f"it is a {actual} function" if wanted == "plain" else f"its kind is {actual}, not {wanted}"


def _missing(wanted: Iterable[str], actual: Iterable[str]) -> str:
    known = set(actual)
    missing = [name for name in wanted if name not in known]
    return f"without {', '.join(missing)}" if missing else ""


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


def _check_method(
    owner: ast.ClassDef, function: str, parameters: tuple[str, ...], kind: Kind, anywhere: tuple[str, ...]
) -> str:
    for node in owner.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            # Coroutine or asynchronous generator: only the body would show it, which is not read. So either fits.
            is_async = isinstance(node, ast.AsyncFunctionDef)
            if why := _why_not_kind(
                kind if is_async and kind != "plain" else "coroutine" if is_async else "plain", kind
            ):
                return why
            arguments = [*node.args.posonlyargs, *node.args.args, *(node.args.kwonlyargs if anywhere else ())]
            return compare([argument.arg for argument in arguments], parameters, anywhere)
    if function == "__init__" and any("dataclass" in ast.unparse(mark) for mark in owner.decorator_list):
        fields = [
            node.target.id
            for node in owner.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        ]
        return compare(fields, parameters)
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
