"""A plot as SVG, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 44, 48
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .c0 { stroke: #cf222e; fill: #cf222e } .c1 { stroke: #bc4c00; fill: #bc4c00 }
  .c2 { stroke: #8250df; fill: #8250df } .c3 { stroke: #0969da; fill: #0969da } .c4 { stroke: #1a7f37; fill: #1a7f37 }
  path { fill: none !important; stroke-width: 2 } text.c0, text.c1, text.c2, text.c3, text.c4 { stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .grid { stroke: #30363d }
    .c0 { stroke: #ff7b72; fill: #ff7b72 } .c1 { stroke: #ffa657; fill: #ffa657 }
    .c2 { stroke: #d2a8ff; fill: #d2a8ff } .c3 { stroke: #79c0ff; fill: #79c0ff } .c4 { stroke: #7ee787; fill: #7ee787 }
  }
"""

#: For each line its name and its points: (parallel calls, seconds, failures).
Lines = Mapping[str, Sequence[tuple[int, float, int]]]


def draw(title: str, lines: Lines) -> str:
    """Draw seconds against the number of parallel calls, both in powers of ten. A point with failures is hollow."""
    counts = [count for points in lines.values() for count, _, _ in points]
    seconds = [value for points in lines.values() for _, value, _ in points]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    first, last = math.log10(min(counts)), math.log10(max(counts))

    def x(count: float) -> float:
        return _LEFT + (math.log10(count) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text x="{_LEFT}" y="24">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>')
    parts += (
        f'<text x="{x(count):.1f}" y="{_HEIGHT - 26}" text-anchor="middle">{count}</text>'
        for count in sorted({*counts})
    )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">parallel calls</text>')
    labels = _spread([(y(points[-1][1]), name) for name, points in lines.items()])
    for number, (name, points) in enumerate(lines.items()):
        path = " L".join(f"{x(count):.1f},{y(value):.1f}" for count, value, _ in points)
        parts.append(f'<path class="c{number}" d="M{path}"/>')
        for count, value, failures in points:
            hollow = ' style="fill: none"' if failures else ""
            said = f"{name}, {count} calls: {value:.2f} s" + (f", {failures} failed" if failures else "")
            parts.append(
                f'<circle class="c{number}" cx="{x(count):.1f}" cy="{y(value):.1f}" r="4"{hollow}>'
                f"<title>{escape(said)}</title></circle>"
            )
        parts.append(
            f'<text class="c{number}" x="{_WIDTH - _RIGHT + 10}" y="{labels[name] + 4:.1f}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _spread(places: list[tuple[float, str]], apart: float = 16) -> dict[str, float]:
    """Move labels apart that would cover each other."""
    spread: dict[str, float] = {}
    previous = -apart
    for at, name in sorted(places):
        previous = spread[name] = max(at, previous + apart)
    return spread
