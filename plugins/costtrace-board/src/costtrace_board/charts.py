"""Charts that only the board and its reports draw: waterfalls, and scatter charts with a front."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from costtrace_ui.svg import BOTTOM, DASHES, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, axes, end_labels, frame, marker


class Bar(NamedTuple):
    """One bar of a waterfall: from where to where, its text, and what kind of step it is."""

    name: str
    low: float | None
    high: float | None
    text: str
    kind: str
    """``end``, ``measured``, ``stated``, ``rest``, ``unknown``."""


def waterfall(name: str, title: str, description: str, y: Axis, bars: Sequence[Bar]) -> str:
    """Bars from level to level; an unknown step has no bar but a question mark."""
    height = HEIGHT + 20
    wide, tall = WIDTH - LEFT - 12, height - TOP - BOTTOM - 12
    body = []
    for value, text in y.ticks:
        at = TOP + tall - y.at(value, 0, tall)
        body.append(f'<path class="grid" d="M{LEFT},{at:.1f} h{wide}"/>')
        body.append(f'<text class="tick" x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    body.append(f'<text class="title" x="8" y="14">{escape(y.title)}</text>')
    slot = wide / len(bars)
    tops: list[tuple[float, float]] = []
    for place, bar in enumerate(bars):
        left, middle = LEFT + place * slot + slot * 0.14, LEFT + (place + 0.5) * slot
        for row, words in enumerate(_wrapped(bar.name)):
            y_at = TOP + tall + 16 + 12 * row
            body.append(f'<text class="tick" x="{middle:.1f}" y="{y_at}" text-anchor="middle">{escape(words)}</text>')
        if bar.low is None or bar.high is None:
            body.append(f'<text class="big" x="{middle:.1f}" y="{TOP + tall / 2:.0f}" text-anchor="middle">?</text>')
            body.append(
                f'<text class="tick" x="{middle:.1f}" y="{TOP + tall / 2 + 16:.0f}" text-anchor="middle">unknown</text>'
            )
            continue
        low, high = sorted((y.at(bar.low, 0, tall), y.at(bar.high, 0, tall)))
        top = TOP + tall - high
        box = f'x="{left:.1f}" y="{top:.1f}" width="{slot * 0.72:.1f}" height="{max(high - low, 1.5):.1f}"'
        body.append(f'<rect class="bar {bar.kind}" {box}/>')
        if (fill := {"stated": "slant", "rest": "dots"}.get(bar.kind)) is not None:
            body.append(f'<rect class="over" fill="url(#p-{fill})" {box}/>')
        body.append(
            f'<text class="value" x="{middle:.1f}" y="{top - 5:.1f}" text-anchor="middle">{escape(bar.text)}</text>'
        )
        tops.append((middle, TOP + tall - y.at(bar.high, 0, tall)))
    body += [f'<path class="join" d="M{a[0]:.1f},{a[1]:.1f} H{b[0] - slot * 0.36:.1f}"/>' for a, b in pairwise(tops)]
    return frame(name, title, description, height, body)


def _wrapped(text: str, width: int = 11) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word if len(word) <= width else word[: width - 1] + "\u2026")
    return lines[:3]


class Dot(NamedTuple):
    """A point of a scatter chart."""

    x: float
    y: float
    series: int
    text: str
    on_front: bool


def scatter(
    name: str, title: str, description: str, x: Axis, y: Axis, series: Sequence[str], dots: Sequence[Dot]
) -> str:
    """Points of several series, each with its own marker; those on a front are joined and filled."""
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    body = axes(x, y, HEIGHT)
    ends: list[tuple[float, str, int]] = []
    for number, label in enumerate(series):
        drawn = sorted(dot for dot in dots if dot.series == number)
        places = [(x.at(dot.x, LEFT, wide), TOP + tall - y.at(dot.y, 0, tall), dot) for dot in drawn]
        front = [(a, b) for a, b, dot in places if dot.on_front]
        css = f"s{number % 5}"
        dash = DASHES[number % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        if len(front) > 1:
            body.append(
                f'<polyline class="line {css}"{dashed} points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in front)}"/>'
            )
        for a, b, dot in places:
            body.append(marker(a, b, 4, number, "dot" if dot.on_front else "hollow"))
            body.append(f'<text class="tick" x="{a + 7:.1f}" y="{b - 6:.1f}">{escape(dot.text)}</text>')
        if places:
            ends.append((places[-1][1], label, number))
    body += end_labels(ends)
    return frame(name, title, description, HEIGHT, body)
