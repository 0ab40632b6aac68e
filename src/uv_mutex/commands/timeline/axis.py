"""A time axis that leaves out long pauses."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

#: How many pauses are left out at most; the longest ones are.
_MOST_BREAKS = 12
#: A pause is left out if it is longer than this share of the busy time, and than this number of seconds.
_PAUSE_SHARE, _PAUSE_SECONDS = 0.1, 2.0
#: The width of the gap that stands for a pause, and the least distance between two ticks, in units of the picture.
_BREAK_WIDTH = 36.0
_TICK_DISTANCE = 90.0


class Axis:
    """Map times, in seconds, to positions between 0 and ``width``."""

    def __init__(self, spans: Iterable[tuple[float, float]], width: float) -> None:
        """
        :param spans: the start and end of everything that happened, in seconds; at least one span.
        :param width: the width of the whole axis, in units of the picture.
        """
        busy = _union(spans)
        total = sum(end - start for start, end in busy)
        pauses = [(after[0] - before[1], before[1]) for before, after in itertools.pairwise(busy)]
        longest = sorted(pauses, reverse=True)[:_MOST_BREAKS]
        least = max(_PAUSE_SECONDS, _PAUSE_SHARE * total)
        cuts = [began for seconds, began in longest if seconds > least]
        #: The start and end of each part that is drawn, in seconds.
        self.parts = _cut(busy, cuts)
        self.width = width
        drawn = sum(end - start for start, end in self.parts)
        self._scale = (width - _BREAK_WIDTH * (len(self.parts) - 1)) / (drawn or 1.0)

    def x(self, time: float) -> float:
        """The position of a time."""
        at = 0.0
        for start, end in self.parts:
            if time <= end:
                return at + max(0.0, time - start) * self._scale
            at += (end - start) * self._scale + _BREAK_WIDTH
        return self.width

    def breaks(self) -> Iterator[tuple[float, float]]:
        """For each pause that is left out: the position of the middle of its gap, and its length in seconds."""
        for (_, end), (start, _) in itertools.pairwise(self.parts):
            yield self.x(end) + _BREAK_WIDTH / 2, start - end

    def ticks(self) -> Iterator[tuple[float, float, bool]]:
        """For each grid line: its position, its label in seconds, and whether they count from the last gap."""
        step = _round_up(_TICK_DISTANCE / self._scale)
        for start, end in self.parts:
            for number in range(math.floor((end - start) / step) + 1):
                yield self.x(start + number * step), number * step, start > self.parts[0][0]


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join the spans that overlap; return the rest in order."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _cut(busy: Sequence[tuple[float, float]], cuts: Sequence[float]) -> list[tuple[float, float]]:
    """Join the spans between two pauses that are left out.

    :param busy: the spans, in order.
    :param cuts: when these pauses begin, in seconds.
    """
    parts = [busy[0]]
    for start, end in busy[1:]:
        if parts[-1][1] in cuts:
            parts.append((start, end))
        else:
            parts[-1] = (parts[-1][0], end)
    return parts


def _round_up(step: float) -> float:
    """The smallest of …, 0.5, 1, 2, 5, 10, 20, … that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
