"""Reading costtrace's YAML files: safe, exact, and with an error that says where.

Numbers with a point become `Decimal`, never float: a price is exactly what its text says. A key that is twice in one
mapping is an error; plain YAML would silently take the last one.
"""

from decimal import Decimal, InvalidOperation
from pathlib import Path

import yaml

from costtrace.core.errors import CosttraceError

MAX_BYTES = 4 * 1024 * 1024


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader (built-in types only), with `Decimal` for float and without repeated keys."""


def load_mapping(path: Path, error: type[CosttraceError], what: str) -> dict[str, object]:
    """Read the mapping that a YAML file holds; an empty file is an empty mapping.

    Raises: *error*, with a message that calls the file *what* (``the price book``).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise error(f"{what} {path} is larger than {MAX_BYTES} bytes. Is it the right file?")
        text = path.read_text(encoding="utf-8")
        loaded = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except OSError as cause:
        raise error(f"cannot read {what} {path}: {cause.strerror}") from cause
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as cause:
        raise error(f"{what} {path} is not usable YAML: {_one_line(cause)}") from cause
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise error(f"{what} {path} must be a mapping (lines of `key: value`), not a {type(loaded).__name__}")
    return loaded


def _one_line(cause: Exception) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> Decimal:
    text = str(loader.construct_scalar(node)).replace("_", "")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise yaml.constructor.ConstructorError(None, None, f"{text!r} is not a number", node.start_mark) from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    loader.flatten_mapping(node)
    result: dict[object, object] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (dict, list)):
            raise yaml.constructor.ConstructorError(
                None, None, "a key cannot be a list or mapping", key_node.start_mark
            )
        if key in result:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} appears twice", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
