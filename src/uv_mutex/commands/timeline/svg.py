"""Draw calls as an SVG: a band for each host, and in it a row for each call. It follows a browser's dark mode."""

from collections.abc import Iterator, Sequence
from html import escape

from uv_mutex.commands.timeline.axis import Axis
from uv_mutex.commands.timeline.log import LoggedCall

_WIDTH, _LEFT, _RIGHT = 1200.0, 150.0, 30.0
_TOP, _BAND, _FOOT = 92.0, 14.0, 34.0
#: The height of all rows together, as long as each stays between the thinnest and the thickest.
_ALL_ROWS = 800.0
_THINNEST, _THICKEST = 3.0, 16.0
#: More rows are too many to scroll through; the newest ones are drawn.
_MOST_ROWS = 2000
_KINDS = ("waited", "held", "prepared", "went on", "failed")
_MEANINGS = ("waited for the lock", "held it", "held it and prepared", "uv goes on without it", "failed")
_STYLE = """
  .page { fill: #ffffff } text { font: 13px system-ui, sans-serif; fill: #24292f } .big { font-size: 16px }
  .grid { stroke: #d8dee4; stroke-width: 1 } .break { fill: #eaeef2 } .small { font-size: 11px; fill: #57606a }
  .waited { fill: #d4a72c } .held { fill: #0969da } .prepared { fill: #8250df } .went { fill: #1a7f37 }
  .failed { fill: #cf222e }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #e6edf3 } .grid { stroke: #30363d } .break { fill: #21262d }
    .small { fill: #8b949e } .waited { fill: #9e7700 } .held { fill: #58a6ff } .prepared { fill: #bc8cff }
    .went { fill: #3fb950 } .failed { fill: #ff7b72 }
  }
"""


def draw(calls: Sequence[LoggedCall]) -> str:
    """Return the text of an SVG that shows the calls.

    :param calls: at least one call, in the order in which they began.
    """
    shown = calls[-_MOST_ROWS:]
    hosts = sorted({call.host for call in shown})
    height = min(_THICKEST, max(_THINNEST, _ALL_ROWS / len(shown)))
    axis = Axis(((call.start, call.end) for call in shown), _WIDTH - _LEFT - _RIGHT)
    bottom = _TOP + height * len(shown) + _BAND * len(hosts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {bottom + _FOOT:.0f}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="100%" height="{bottom + _FOOT:.0f}"/>',
        f'<text class="big" x="16" y="28">{escape(_summary(calls))}</text>',
        *_legend(len(calls) - len(shown)),
        *_grid(axis, bottom),
    ]
    y = _TOP
    for host in hosts:
        rows = [call for call in shown if call.host == host]
        parts += _band(host, rows, axis, y, height)
        y += _BAND + height * len(rows)
    return "\n".join([*parts, "</svg>", ""]).encode("utf-8", "replace").decode()


def _band(host: str, rows: Sequence[LoggedCall], axis: Axis, y: float, height: float) -> Iterator[str]:
    """The calls of one host, below a line with its name.

    :param y: where the band begins.
    :param height: the height of a row.
    """
    yield f'<line class="grid" x1="16" x2="{_WIDTH - 16:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
    y += _BAND / 2
    label = host if len(host) < 19 else f"{host[:17]}…"
    yield f'<text x="16" y="{y + 12:.1f}">{escape(label)}<title>{escape(host)}</title></text>'
    yield f'<text class="small" x="16" y="{y + 27:.1f}">{_count(len(rows), "call")}</text>'
    for number, call in enumerate(rows):
        yield _row(call, axis, y + number * height, height)


def _summary(calls: Sequence[LoggedCall]) -> str:
    """The headline: how many calls there are, and how they went."""
    hosts, failed = {call.host for call in calls}, sum(bool(call.exit) for call in calls)
    longest = max(call.waited for call in calls)
    texts = [
        f"{_count(len(calls), 'call')} on {_count(len(hosts), 'host')}",
        f"{sum(call.prepared for call in calls)} prepared",
        f"{failed} failed",
        f"longest wait {_duration(longest)}",
        f"{_duration(max(call.end for call in calls) - calls[0].start)} in all",
    ]
    return ", ".join(texts)


def _legend(left_out: int) -> Iterator[str]:
    """Explain the colours, and say how many calls are left out."""
    x = 16.0
    for kind, meaning in zip(_KINDS, _MEANINGS, strict=True):
        name = kind.partition(" ")[0]
        yield f'<rect class="{name}" x="{x:g}" y="45" width="12" height="12"/>'
        yield f'<text x="{x + 18:g}" y="56">{meaning}</text>'
        x += 46 + 6.8 * len(meaning)
    if left_out:
        yield f'<text class="small" x="{x:g}" y="56">({left_out} earlier calls are left out)</text>'


def _grid(axis: Axis, bottom: float) -> Iterator[str]:
    """The time axis: a line for each tick, and a gap for each pause."""
    for at, seconds, again in axis.ticks():
        x, said = _LEFT + at, f"{'+' if again else ''}{_duration(seconds)}"
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8:g}" y2="{bottom:.1f}"/>'
        for y in (_TOP - 14, bottom + 18):
            yield f'<text class="small" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{said}</text>'
    for at, seconds in axis.breaks():
        x, said = _LEFT + at, f"nothing for {_duration(seconds)}"
        yield (
            f'<rect class="break" x="{x - 12:.1f}" y="{_TOP - 8:g}" width="24" height="{bottom - _TOP + 8:.1f}">'
            f"<title>{said}</title></rect>"
            f'<text class="small" transform="translate({x + 4:.1f} {_TOP + 4:g}) rotate(90)">{said}</text>'
        )


def _row(call: LoggedCall, axis: Axis, y: float, height: float) -> str:
    """The row of one call: bars for the time that it waited and held the lock, and a mark for how it ended."""
    bar = height - (1 if height > 4 else 0)
    start, taken, end = (_LEFT + axis.x(moment) for moment in (call.start, call.taken, call.end))
    parts = []
    if call.waited:
        parts.append(_bar("waited", start, max(taken, start + 0.5), y, bar))
    if call.held:
        parts.append(_bar("prepared" if call.prepared else "held", taken, max(end, taken + 1.5), y, bar))
    # The log does not say how long the command ran after that, so a mark of fixed width stands for it.
    after = max(end, taken + 1.5)
    if call.exit is None:
        deep = min(bar, 7)
        arrow = f"M{after:.1f} {y:.1f}l{deep:.1f} {bar / 2:.1f}l-{deep:.1f} {bar / 2:.1f}z"
        parts.append(f'<path class="went" d="{arrow}"/>')
    elif call.exit:
        parts.append(_bar("failed", after, after + min(bar, 7), y, bar))
    return f"<g><title>{escape(_details(call))}</title>{''.join(parts)}</g>"


def _bar(kind: str, x1: float, x2: float, y: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x1:.1f}" y="{y:.1f}" width="{x2 - x1:.1f}" height="{height:.1f}"/>'


def _details(call: LoggedCall) -> str:
    """The text that a browser shows when the pointer is on a row."""
    status = "uv goes on without the lock" if call.exit is None else f"exit {call.exit}"
    held = "prepared and held" if call.prepared else "held"
    return (
        f"{call.command}\n{call.host}, pid {call.pid}, {call.project}\n"
        f"waited {_duration(call.waited)}, {held} {_duration(call.held)}, {status}"
    )


def _duration(seconds: float) -> str:
    """A duration in a fitting unit, with at most three digits."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 s"
    if seconds < 120:
        return f"{seconds:.3g} s"
    for unit, size, limit in (("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.0f} d"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
