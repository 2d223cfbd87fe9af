"""Act on a module once it has been imported, without importing it.

An engine calls a plugin in each of its processes, long before most of its modules are loaded, and some processes never
load them. Importing them from the plugin would cost each process seconds and could close an import circle; so a hook
waits until the engine imports its module.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import ModuleType
from typing import Protocol, TypeVar

from costtrace.core.guard import guard

Action = Callable[[ModuleType], None]


class _Hook(Protocol):
    """A hook, as far as this module uses it."""

    @property
    def module(self) -> str:
        """Name of the module that it wraps something in."""


H = TypeVar("H", bound=_Hook)


class _Watcher(importlib.abc.MetaPathFinder):
    """First in ``sys.meta_path``: lets the other finders find a module, and runs the actions after it is loaded."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Action]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Spec of a module that actions wait for; None for any other: then the next finder is asked."""
        if fullname not in self.waiting:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find else None
            if spec is not None:
                with guard("late.find_spec"):
                    self._watch(spec)
                return spec  # type: ignore[no-any-return] # finders are not typed beyond their protocol
        return None

    def _watch(self, spec: importlib.machinery.ModuleSpec) -> None:
        loader = spec.loader
        if loader is None or not hasattr(loader, "exec_module"):
            return
        execute = loader.exec_module

        def execute_then_act(module: ModuleType) -> None:
            del loader.exec_module  # first, so that the loader is as before even if the module raises
            execute(module)
            for action in self.waiting.pop(spec.name, ()):
                with guard(f"late.{spec.name}"):
                    action(module)

        loader.exec_module = execute_then_act  # type: ignore[method-assign] # only of this module's loader


_watcher = _Watcher()


def when_imported(name: str, action: Action) -> None:
    """Run *action* on module *name*: now if it is loaded, else as soon as it has been."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        action(module)
        return
    _watcher.waiting.setdefault(name, []).append(action)
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)


def install_when_imported(hooks: Iterable[H], install: Callable[[list[H], ModuleType], None]) -> None:
    """Run *install* with each module that *hooks* name, and its hooks, as soon as it has been imported."""
    by_module: dict[str, list[H]] = {}
    for hook in hooks:
        by_module.setdefault(hook.module, []).append(hook)
    for name, hooks_of_module in by_module.items():
        when_imported(name, partial(install, hooks_of_module))
