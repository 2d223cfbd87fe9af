"""Touching TensorRT-LLM's objects: names change with its versions, and some attributes raise after a while."""

from collections.abc import Callable
from functools import wraps
from typing import Any

Method = Callable[..., Any]


def read(owner: Any, name: str, default: Any = None) -> Any:
    """An attribute; *default* where it does not exist, is None, or raises, as some do once a request has moved on."""
    try:
        value = getattr(owner, name, default)
    except Exception:  # noqa: BLE001 - what upstream raises there changes with its versions
        return default
    return default if value is None else value


def number(owner: Any, *names: str, default: int = -1) -> int:
    """The first of *names* that is a whole number."""
    for name in names:
        value = read(owner, name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return default


def wrapper(hook: Method) -> Callable[[Method], Method]:
    """Make *hook* a wrapper of methods: it is called instead of the method, with the method as its first argument.

    It costs a call, some 0.1 us: the hooks that run in every iteration are written out.
    """

    def wrap(original: Method) -> Method:
        @wraps(original)
        def hooked(*args: Any, **kwargs: Any) -> Any:
            return hook(original, *args, **kwargs)

        return hooked

    return wrap
