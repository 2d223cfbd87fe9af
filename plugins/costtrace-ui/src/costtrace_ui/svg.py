"""Charts as SVG text, by hand: no script, no font, no request, readable in black and white, named for screen readers.

Series differ by marker and dash, bars by pattern, and everything carries its figure as text. Colours are the page's
(``currentColor`` and CSS classes), so a chart follows light, dark and print. Widths are those of a viewBox: the page
scales them.
"""

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 146, 28, 52
DASHES = ("", "7 4", "2 3", "10 3 2 3", "1 5")
MARKERS = (
    (),  # a circle
    ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    ((0, -1.3), (1.3, 1), (-1.3, 1)),
    ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    ((-1.3, -1), (1.3, -1), (0, 1.3)),
    ((-1.2, -1.2), (1.2, -1.2), (-1.2, 1.2), (1.2, 1.2)),
)
"""Corners of the series' markers, in radii from the middle. One more than colours and dashes, so 5 differs from 0."""
PATTERNS = ("solid", "slant", "dots", "cross", "line")


class Series(NamedTuple):
    """One line: a name and (x, y) points; a y of None is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


class Mark(NamedTuple):
    """A vertical line at x with a number that a list below the chart explains."""

    x: float
    number: int


class Axis(NamedTuple):
    """Title with unit and basis, and how a tick is written at a value."""

    title: str
    ticks: Sequence[tuple[float, str]]
    low: float
    high: float

    def at(self, value: float, start: float, length: float) -> float:
        """Where a value is on the chart."""
        span = self.high - self.low or 1.0
        return start + (value - self.low) / span * length


def nice_axis(title: str, high: float, low: float = 0.0) -> Axis:
    """An axis from *low* (0) to a round number at or above *high*, with four to six ticks."""
    high = high if high > low else low + 1.0
    raw = (high - low) / 5
    size = 10.0 ** (len(f"{raw:e}") and int(f"{raw:e}".split("e")[1]))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    count = int((high - low) / step + 0.999)
    ticks = [(low + step * k, tick(low + step * k)) for k in range(count + 1)]
    return Axis(title, ticks, low, low + step * count)


def tick(value: float) -> str:
    """A number at a tick: never in exponents, no tail of zeros."""
    text = f"{Decimal(f'{value:.4g}'):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def frame(name: str, title: str, description: str, height: int, body: Sequence[str]) -> str:
    """The chart *name*, with a title and a description for screen readers."""
    return "\n".join(
        [
            f'<svg class="chart" role="img" aria-labelledby="{name}-t {name}-d" viewBox="0 0 {WIDTH} {height}">',
            f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>',
            *body,
            "</svg>",
        ]
    )


def patterns() -> str:
    """Definitions of the bars' patterns, once a page."""
    lines = {
        "slant": '<path d="M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4"/>',
        "dots": '<circle cx="4" cy="4" r="1.4"/>',
        "cross": '<path d="M0,0 l8,8 M8,0 l-8,8"/>',
        "line": '<path d="M0,4 h8"/>',
    }
    made = "".join(
        f'<pattern id="p-{name}" width="8" height="8" patternUnits="userSpaceOnUse">{path}</pattern>'
        for name, path in lines.items()
    )
    return f'<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false"><defs>{made}</defs></svg>'


def axes(x: Axis, y: Axis, height: int) -> list[str]:
    """Both axes with ticks and titles, and the horizontal grid."""
    wide, tall = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM
    body = []
    for value, text in y.ticks:
        at = TOP + tall - y.at(value, 0, tall)
        body.append(f'<path class="grid" d="M{LEFT},{at:.1f} h{wide}"/>')
        body.append(f'<text class="tick" x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in x.ticks:
        at = x.at(value, LEFT, wide)
        body.append(f'<path class="axis" d="M{at:.1f},{TOP + tall} v5"/>')
        body.append(f'<text class="tick" x="{at:.1f}" y="{TOP + tall + 18}" text-anchor="middle">{escape(text)}</text>')
    body.append(f'<path class="axis" d="M{LEFT},{TOP + tall} h{wide}"/>')
    middle = LEFT + wide / 2
    body.append(f'<text class="title" x="{middle:.0f}" y="{height - 10}" text-anchor="middle">{escape(x.title)}</text>')
    body.append(f'<text class="title" x="{LEFT - 56}" y="14">{escape(y.title)}</text>')
    return body


def marker(x: float, y: float, radius: float, number: int, kind: str = "dot") -> str:
    """A point of series *number*; *kind*: ``dot``, which is filled, or ``hollow``."""
    css = f'class="{kind} s{number % 5}"'
    corners = MARKERS[number % len(MARKERS)]
    if not corners:
        return f'<circle {css} cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
    points = " ".join(f"{x + radius * right:.1f},{y + radius * down:.1f}" for right, down in corners)
    return f'<polygon {css} points="{points}"/>'


def line_chart(
    name: str, title: str, description: str, x: Axis, y: Axis, series: Sequence[Series], marks: Sequence[Mark] = ()
) -> str:
    """Lines over a common axis, each named at its end; *marks* are numbered vertical lines."""
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    body = axes(x, y, HEIGHT)
    for place, numbers in _by_place(marks).items():
        at = x.at(place, LEFT, wide)
        body.append(f'<path class="mark" d="M{at:.1f},{TOP} v{tall}"/>')
        flag = "-".join(str(number) for number in sorted({numbers[0], numbers[-1]}))
        half = 5 + 3.4 * len(flag)
        box = f'x="{at - half:.1f}" y="{TOP - 4}" width="{2 * half:.1f}" height="16" rx="8"'
        body.append(f'<rect class="flag" {box}/>')
        body.append(f'<text class="flagno" x="{at:.1f}" y="{TOP + 8}" text-anchor="middle">{flag}</text>')
    ends: list[tuple[float, str, int]] = []
    for number, one in enumerate(series):
        drawn = [(x.at(px, LEFT, wide), TOP + tall - y.at(py, 0, tall)) for px, py in one.points if py is not None]
        if not drawn:
            continue
        css = f"s{number % 5}"
        dash = DASHES[number % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        body += [
            f'<polyline class="line {css}"{dashed} points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in part)}"/>'
            for part in _runs(one, x, y)
        ]
        body += [marker(a, b, 2.8, number) for a, b in (drawn if len(drawn) <= 40 else drawn[-1:])]
        ends.append((drawn[-1][1], one.name, number))
    body += end_labels(ends)
    return frame(name, title, description, HEIGHT, body)


def _by_place(marks: Sequence[Mark]) -> dict[float, list[int]]:
    """Numbers of the marks at each x: those of one day share a flag."""
    places: dict[float, list[int]] = {}
    for mark in marks:
        places.setdefault(mark.x, []).append(mark.number)
    return places


def _runs(one: Series, x: Axis, y: Axis) -> list[list[tuple[float, float]]]:
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    runs: list[list[tuple[float, float]]] = [[]]
    for px, py in one.points:
        if py is None:
            runs.append([])
        else:
            runs[-1].append((x.at(px, LEFT, wide), TOP + tall - y.at(py, 0, tall)))
    return [run for run in runs if len(run) > 1]


def end_labels(ends: list[tuple[float, str, int]]) -> list[str]:
    """Names at the ends of the lines with their markers, moved apart where they would overlap."""
    placed: list[float] = []
    body = []
    for at, text, number in sorted(ends):
        where = max(at, placed[-1] + 26 if placed else at)
        placed.append(where)
        x = WIDTH - RIGHT + 18
        body.append(marker(x - 7, where, 3.4, number))
        first, second = _two_lines(text)
        body.append(f'<text class="label s{number % 5}" x="{x}" y="{where + 4:.1f}">{escape(first)}</text>')
        if second:
            body.append(f'<text class="label s{number % 5}" x="{x}" y="{where + 15:.1f}">{escape(second)}</text>')
    return body


def _two_lines(text: str, width: int = 19) -> tuple[str, str]:
    if len(text) <= width:
        return text, ""
    cut = text.rfind(" ", 0, width + 1)
    cut = cut if cut > 0 else width
    rest = text[cut:].strip()
    return text[:cut], rest if len(rest) <= width else rest[: width - 1] + "\u2026"


class ChartPart(NamedTuple):
    """A part of a stacked bar."""

    name: str
    share: float
    text: str


def stacked_bar(name: str, title: str, description: str, parts: Sequence[ChartPart]) -> str:
    """One horizontal bar of 100 %, its parts with patterns of their own, and named below."""
    height, top, tall, left = 92, 8, 34, 4
    wide = WIDTH - 2 * left
    body = []
    at = float(left)
    for place, part in enumerate(parts):
        width = part.share * wide
        box = f'x="{at:.1f}" y="{top}" width="{max(width, 0.0):.1f}" height="{tall}"'
        body.append(f'<rect class="bar k{place}" {box}/>')
        if place:
            body.append(f'<rect class="over" fill="url(#p-{PATTERNS[place % 5]})" {box}/>')
        at += width
    slot = wide / len(parts)
    for place, part in enumerate(parts):
        x = left + place * slot
        box = f'x="{x:.1f}" y="{top + tall + 12}" width="14" height="14"'
        body.append(f'<rect class="bar k{place}" {box}/>')
        if place:
            body.append(f'<rect class="over" fill="url(#p-{PATTERNS[place % 5]})" {box}/>')
        body.append(f'<text class="tick" x="{x + 19:.1f}" y="{top + tall + 24}">{escape(part.name)}</text>')
        body.append(f'<text class="value" x="{x + 19:.1f}" y="{top + tall + 40}">{escape(part.text)}</text>')
    return frame(name, title, description, height, body)
