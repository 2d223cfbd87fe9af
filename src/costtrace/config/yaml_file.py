"""Reading the YAML files that people write: safe, as it is written, and with an error that says where.

No scalar becomes a number or a date here: YAML 1.1 would read ``012`` as 10 and ``1:30`` as 90. Whoever reads a field
takes its text. A key that is twice in one mapping is an error; plain YAML would silently take the last one.
"""

from pathlib import Path
from typing import Any

import yaml

from costtrace.config.yaml_fields import Items, Section, Written
from costtrace.core.errors import CosttraceError

MAX_BYTES = 4 * 1024 * 1024
MAX_VALUES = 500_000
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without numbers, dates, repeated keys, tags but ``!!str``, and aliases that explode."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it untyped
        if getattr(event, "tag", None) not in {None, "!", f"{_TAG}str"}:
            raise _refusal(f"the tag {event.tag!r} is not taken: write the value without it", event)
        return super().compose_node(parent, index)

    def count(self, node: yaml.Node, parts: list[yaml.Node]) -> None:
        """Refuse *node* if it is too large with its aliases written out."""
        self.values[node] = 1 + sum(self.values.get(part, 1) for part in parts)
        if self.values[node] > MAX_VALUES:
            raise _refusal(f"with its aliases written out it has more than {MAX_VALUES:,} values", node)


def load_mapping(path: Path, error: type[CosttraceError], what: str) -> Section:
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
    except (yaml.YAMLError, RecursionError, ValueError) as cause:
        raise error(f"{what} {path} is not usable YAML: {_one_line(cause)}") from cause
    if loaded is None:
        return Section(1)
    if not isinstance(loaded, Section):
        raise error(f"{what} {path} must be a mapping (lines of `key: value`), not a {type(loaded).__name__} (line 1)")
    return loaded


def _one_line(cause: Exception) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__


def _refusal(why: str, where: Any) -> yaml.YAMLError:  # noqa: ANN401 - the stubs of nodes and events differ
    return yaml.constructor.ConstructorError(None, None, why, where.start_mark)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _written(loader: _Loader, node: yaml.ScalarNode) -> Written:
    return Written(loader.construct_scalar(node))


def _items(loader: _Loader, node: yaml.SequenceNode) -> Items:
    items = [loader.construct_object(item, deep=True) for item in node.value]
    loader.count(node, node.value)
    return Items(items, list(map(_line, node.value)))


def _section(loader: _Loader, node: yaml.MappingNode) -> Section:
    loader.flatten_mapping(node)
    section = Section(_line(node))
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _refusal("a key must be a text: write words such as no, on and null in quotes", key_node)
        if (key := str(key)) in section:
            raise _refusal(f"the key {key!r} appears twice", key_node)
        section[key] = loader.construct_object(value_node, deep=True)
        section.lines[key] = _line(key_node)
    loader.count(node, [value for _, value in node.value])
    return section


for _kind in ("int", "float", "timestamp", "value"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _written)
_Loader.add_constructor(f"{_TAG}seq", _items)
_Loader.add_constructor(f"{_TAG}map", _section)
