"""What a benchmark measures: one named number, and the goal it is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """A median over repeats. ``goal`` is a bound on ``value``; None where there is none."""

    name: str
    value: float
    unit: str  # "s", "x" (a ratio), "MiB", "ms" …
    goal: float | None = None
    better: Literal["more", "less"] = "less"
    note: str = ""  # what a reader must know: how it was scaled, what was left out
    repeats: Sequence[float] = ()  # what the median is of

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "more" else self.value <= self.goal


# A benchmark: (repeats, quick) -> its figures. Quick ones take seconds, and only show that it runs.
Benchmark = Callable[[int, bool], list[Figure]]
