"""A time axis that leaves out the hours in which nothing happened."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

#: At most so many breaks, each for a pause that is long against all that happened, and so wide on paper.
_MOST_BREAKS = 12
_PAUSE_SHARE, _PAUSE_SECONDS = 0.1, 2.0
_BREAK_WIDTH = 36.0
_TICK_APART = 90.0


class Axis:
    """Where a moment is, between 0 and ``width``."""

    def __init__(self, spans: Iterable[tuple[float, float]], width: float) -> None:
        """
        :param spans: from when to when something happened; at least one.
        """
        busy = _union(spans)
        total = sum(end - start for start, end in busy)
        pauses = sorted(((after[0] - before[1], before[1]) for before, after in itertools.pairwise(busy)), reverse=True)
        least = max(_PAUSE_SECONDS, _PAUSE_SHARE * total)
        cuts = sorted(at for long, at in pauses[:_MOST_BREAKS] if long > least)
        #: The parts that are drawn, each from when to when.
        self.parts = _cut(busy, cuts)
        self.width = width
        drawn = sum(end - start for start, end in self.parts)
        self._scale = (width - _BREAK_WIDTH * (len(self.parts) - 1)) / (drawn or 1.0)

    def x(self, moment: float) -> float:
        """Where a moment is."""
        at = 0.0
        for start, end in self.parts:
            if moment <= end:
                return at + max(0.0, moment - start) * self._scale
            at += (end - start) * self._scale + _BREAK_WIDTH
        return self.width

    def breaks(self) -> Iterator[tuple[float, float]]:
        """The middle of each break, and how many seconds it leaves out."""
        for (_, end), (start, _) in itertools.pairwise(self.parts):
            yield self.x(end) + _BREAK_WIDTH / 2, start - end

    def ticks(self) -> Iterator[tuple[float, float, bool]]:
        """Where to draw a line, the seconds that it stands for, and whether they count from the last break."""
        step = _round_up(_TICK_APART / self._scale)
        for start, end in self.parts:
            for number in range(math.floor((end - start) / step) + 1):
                yield self.x(start + number * step), number * step, start > self.parts[0][0]


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _cut(busy: Sequence[tuple[float, float]], cuts: Sequence[float]) -> list[tuple[float, float]]:
    parts = [busy[0]]
    for start, end in busy[1:]:
        if parts[-1][1] in cuts:
            parts.append((start, end))
        else:
            parts[-1] = (parts[-1][0], end)
    return parts


def _round_up(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
