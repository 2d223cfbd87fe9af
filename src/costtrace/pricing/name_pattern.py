"""Patterns of names in a price book: ``*`` is any text, ``?`` any one character. Pure."""

import re
from functools import lru_cache


def precedence(pattern: str) -> tuple[bool, int]:
    """A key, greater for the more exact pattern: an exact name, then the one with the most literal characters."""
    wild = pattern.count("*") + pattern.count("?")
    return wild == 0, len(pattern) - wild


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = ({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    """Whether *name* fits *pattern*, without regard to case."""
    return _compiled(re.sub(r"\*+", "*", pattern)).fullmatch(name) is not None


def patterns_meet(one: str, other: str) -> bool:
    """Whether some name fits both patterns. Case counts: give both in one case."""
    # reach: how far into *other* one can be after each character of *one*, as in the usual edit-distance table.
    reach = _skip_stars({0}, other)
    for char in one:
        if char == "*":
            reach = {index for start in reach for index in range(start, len(other) + 1)}
            continue
        after = {
            index + 1 for index in reach if index < len(other) and ("?" in {char, other[index]} or char == other[index])
        }
        after |= {index for index in reach if index < len(other) and other[index] == "*"}
        reach = _skip_stars(after, other)
    return len(other) in reach


def _skip_stars(reach: set[int], pattern: str) -> set[int]:
    for start in tuple(reach):
        index = start
        while index < len(pattern) and pattern[index] == "*":
            index += 1
            reach.add(index)
    return reach
