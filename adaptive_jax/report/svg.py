"""Small figures as SVG text that follows the page's colours: lines with intervals, stacked shares, and dots."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44
COLOURS = ("#3b7dd8", "#d9622b", "#2f9e5b", "#a05bc4", "#c79a12", "#0aa5a8", "#d14880", "#7d7d7d")
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # lines are told apart without colours, too

Point = tuple[float, float, float]  # x, y and half the interval


def line_chart(title: str, x: str, y: str, series: Mapping[str, Sequence[Point]], *, top: float | None = None) -> str:
    """Lines with error bars.

    Args:
        title: what it shows, read to those who do not see it.
        x, y: the axes.
        series: the points of each line.
        top: the largest y, above 0; by default all points are shown, and 0.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    low, high = min(p[0] for p in points), max(p[0] for p in points)
    bottom = min(0.0, *(p[1] - p[2] for p in points)) if top is None else 0.0
    highest = max(p[1] + p[2] for p in points) if top is None else top
    frame = _Frame(low, high, bottom, highest if highest > bottom else bottom + 1.0)
    parts = frame.axes(x, y)
    for number, (name, line) in enumerate(series.items()):
        colour = f"c{number % 8}"
        path = " ".join(f"{'L' if i else 'M'}{frame.x(p[0]):.1f} {frame.y(p[1]):.1f}" for i, p in enumerate(line))
        parts.append(f'<path class="line {colour}" stroke-dasharray="{DASHES[number // 8 % 4]}" d="{path}"/>')
        for at, value, half in line:
            if half:
                bar = f"M{frame.x(at):.1f} {frame.y(value - half):.1f}V{frame.y(value + half):.1f}"
                parts.append(f'<path class="bar {colour}" d="{bar}"/>')
            told = f"{escape(name)}: {value:.3g} at {at:g}"
            place = f'cx="{frame.x(at):.1f}" cy="{frame.y(value):.1f}"'
            parts.append(f'<circle class="dot {colour}" {place} r="3"><title>{told}</title></circle>')
    return _figure(title, parts, list(series))


def stacked_chart(
    title: str, x: str, at: Sequence[float], shares: Mapping[str, Sequence[float]], line: Sequence[Point] = ()
) -> str:
    """Shares that add up to 1, stacked, with a line over them.

    Args:
        title, x: as for `line_chart`.
        at: P places on the x axis.
        shares: P shares of each name.
        line: points of a line over them, in [0, 1].
    """
    if len(at) == 0:
        return ""
    frame = _Frame(min(at), max(at), 0.0, 1.0)
    parts = []
    below = [0.0] * len(at)
    for number, (name, own) in enumerate(shares.items()):
        above = [b + s for b, s in zip(below, own, strict=True)]
        edge = [*zip(at, above, strict=True), *reversed(list(zip(at, below, strict=True)))]
        path = " ".join(f"{'L' if i else 'M'}{frame.x(a):.1f} {frame.y(b):.1f}" for i, (a, b) in enumerate(edge))
        parts.append(f'<path class="area f{number % 8}" d="{path}Z"><title>{escape(name)}</title></path>')
        below = above
    if line:
        path = " ".join(f"{'L' if i else 'M'}{frame.x(p[0]):.1f} {frame.y(p[1]):.1f}" for i, p in enumerate(line))
        parts.append(f'<path class="line over" d="{path}"/>')
    return _figure(title, [*parts, *frame.axes(x, "share")], list(shares), filled=True)


def scatter_chart(title: str, x: str, y: str, series: Mapping[str, Sequence[Point]], *, diagonal: bool = False) -> str:
    """Dots, the half intervals of which are not shown.

    Args:
        title, x, y, series: as for `line_chart`.
        diagonal: one scale for both axes, and a line where x and y are equal.
    """
    points = [point for dots in series.values() for point in dots]
    if not points:
        return ""
    right, top = max(p[0] for p in points) or 1.0, max(p[1] for p in points) or 1.0
    if diagonal:
        right = top = max(right, top)
    frame = _Frame(0.0, right, 0.0, top)
    parts = frame.axes(x, y)
    if diagonal:
        line = f"M{frame.x(0):.1f} {frame.y(0):.1f}L{frame.x(right):.1f} {frame.y(top):.1f}"
        parts.append(f'<path class="axis" stroke-dasharray="{DASHES[1]}" d="{line}"/>')
    for number, dots in enumerate(series.values()):
        places = (f'cx="{frame.x(at):.1f}" cy="{frame.y(value):.1f}"' for at, value, _ in dots)
        parts += [f'<circle class="dot faint f{number % 8}" {place} r="3"/>' for place in places]
    return _figure(title, parts, list(series), filled=True)


class _Frame:
    """Where data are on the page."""

    def __init__(self, left: float, right: float, bottom: float, top: float):
        self._left, self._right, self._bottom, self._top = left, right if right > left else left + 1, bottom, top

    def x(self, value: float) -> float:
        return LEFT + (value - self._left) / (self._right - self._left) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        value = min(max(value, self._bottom), self._top)
        return HEIGHT - BOTTOM - (value - self._bottom) / (self._top - self._bottom) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: str, y: str) -> list[str]:
        parts = [f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
        for value in _ticks(self._left, self._right):
            parts.append(f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
        for value in _ticks(self._bottom, self._top):
            parts.append(f'<text x="{LEFT - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
        parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
        middle = (HEIGHT - BOTTOM) / 2
        parts.append(f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
        return parts


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(title: str, parts: Sequence[str], names: Sequence[str], *, filled: bool = False) -> str:
    kind = "f" if filled else "c"
    keys = "".join(
        f'<li><span class="key {kind}{number % 8}{" dashed" * (number >= 8)}"></span>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    body = "".join(parts)
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
    return f'<figure><figcaption>{escape(title)}</figcaption>{drawing}<ul class="legend">{keys}</ul></figure>'
