"""A row of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.workload import Workload


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    ``what`` may have the place ``{calls}`` for ``calls``, the number of calls at once. ``measure`` gets the row itself,
    of which it takes the number of rounds. ``is_usual``: whether it is measured when no row is named.
    """

    name: str
    what: str
    goal: str
    rounds: int
    measure: Callable[[Workload, Row], str]
    calls: int = 1
    is_usual: bool = True


def ratio(value: float, base: float) -> str:
    """How a figure compares to another one, for the table."""
    return f"1/{base / value:.0f}" if base > 5 * value else f"{value / base:.2f}"
