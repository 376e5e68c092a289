"""What a benchmark of searches shows: tables of regrets, the goals, a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from search_peers import PEERS
from search_simulator import Of, Trajectory

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the budget
OURS = "thaw"
_SHARE_NAMES = ("1/8", "1/4", "1/2", "1")
_OF_NAMES: Mapping[Of, str] = {"epochs": "epochs", "seconds": "time"}
_QUARTILES = (0.25, 0.5, 0.75)
_TOLERANCE = 1e-6  # regrets as float32 values give them
_SMALLEST = 1e-3  # regret below it is drawn as this
_HUGE = 1e12  # stands for infinity where values are interpolated
_GRID = np.linspace(0.002, 1.0, 500)  # shares of the budget at which curves are drawn and compared


@dataclass
class Comparison:
    """All searches on one table with one number of workers."""

    table: str
    n_workers: int
    runs: dict[str, list[Trajectory]] = field(default_factory=dict)  # searcher -> one per seed

    def regrets(self, searcher: str, shares: Iterable[float], of: Of = "epochs") -> np.ndarray:
        """[n_seeds, n_shares] normalised regrets; infinite before the first epoch has ended."""
        return np.array(
            [[run.regret_at(share, of) for share in shares] for run in self.runs[searcher]]
        )

    def medians(self, searcher: str, shares: Iterable[float], of: Of = "epochs") -> np.ndarray:
        """[n_shares] median regrets over seeds."""
        return np.median(self.regrets(searcher, shares, of), axis=0)


@dataclass(frozen=True)
class Goal:
    """One figure that the search is held against."""

    name: str
    value: float
    bound: float
    note: str = ""

    @property
    def reached(self) -> bool:
        return self.value <= self.bound + _TOLERANCE


def equal_budget_peers(comparison: Comparison) -> list[str]:
    """The peers that spend what we spend."""
    return [name for name in comparison.runs if name in PEERS and PEERS[name].budget_factor == 1]


def find_goals(comparison: Comparison, ours: str = OURS, of: Of = "epochs") -> list[Goal]:
    """The goals that this comparison has the peers for; medians over seeds throughout.

    Args:
        of: what shares are of. The end by seconds is when the budget's time is over, even of a
            search that goes on after it since it leaves workers idle.
    """
    goals = []
    peers = equal_budget_peers(comparison)
    ends = {name: float(comparison.medians(name, [1.0], of)[0]) for name in comparison.runs}
    if peers:
        best = min(peers, key=ends.__getitem__)
        share = _share_to_reach(comparison, ours, ends[best], of)
        goals.append(Goal("budget to the best peer's end", share, 0.6, best))
    if "random" in peers:
        share = _share_to_reach(comparison, ours, ends["random"], of)
        goals.append(Goal("budget to random search's end", share, 0.25))
    if "random_twice" in comparison.runs:
        twice = ends["random_twice"]
        goals.append(Goal("end regret, of random's with twice the budget", ends[ours], twice))
    for share, label in zip(SHARES, _SHARE_NAMES, strict=True) if peers else ():
        medians = {name: float(comparison.medians(name, [share], of)[0]) for name in peers}
        best = min(peers, key=medians.__getitem__)
        value = float(comparison.medians(ours, [share], of)[0])
        goals.append(
            Goal(f"regret at {label} of the budget, of the best", value, medians[best], best)
        )
    return goals


def _share_to_reach(comparison: Comparison, searcher: str, regret: float, of: Of) -> float:
    """The first share of the budget from which the median regret is that low; inf: never."""
    low_enough = comparison.medians(searcher, _GRID, of) <= regret + _TOLERANCE
    return float(_GRID[low_enough.argmax()]) if low_enough.any() else math.inf


def regret_table(comparison: Comparison) -> str:
    """Markdown: median and quartiles of each searcher at each share, of epochs and of time."""
    columns = [f"{share} {name}" for name in _OF_NAMES.values() for share in _SHARE_NAMES]
    lines = [
        f"### {comparison.table}, {comparison.n_workers} workers",
        "",
        f"| searcher | {' | '.join(columns)} | trials |",
        "| --- " * (len(columns) + 2) + "|",
    ]
    for name, runs in comparison.runs.items():
        cells = []
        for of in _OF_NAMES:
            regrets = comparison.regrets(name, SHARES, of)
            cells += [_cell(column) for column in regrets.T]
        n_trials = f"{np.median([run.n_trials for run in runs]):.0f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {n_trials} |")
    return "\n".join(lines)


def _cell(regrets: np.ndarray) -> str:
    low, middle, high = _quartiles(regrets)
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def _quartiles(regrets: np.ndarray) -> np.ndarray:
    """[3, …] over the first axis; infinite regrets, before any epoch has ended, stay so."""
    found = np.quantile(np.minimum(regrets, _HUGE), _QUARTILES, axis=0)
    return np.where(found > _HUGE / 1e3, np.inf, found)


def goal_table(comparisons: Sequence[Comparison], ours: str = OURS) -> str:
    """Markdown: every goal on every table by epochs and by time; how many are reached by each."""
    header = ("table", "workers", "by", "goal", "value", "at most", "against", "reached")
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    counts = []
    for of, name in _OF_NAMES.items():
        n_goals = n_reached = 0
        for comparison in comparisons:
            for goal in find_goals(comparison, ours, of):
                n_goals, n_reached = n_goals + 1, n_reached + goal.reached
                lines.append(
                    f"| {comparison.table} | {comparison.n_workers} | {name} | {goal.name} "
                    f"| {goal.value:.3f} | {goal.bound:.3f} | {goal.note} "
                    f"| {'yes' if goal.reached else '**no**'} |"
                )
        counts.append(f"{n_reached} of {n_goals} reached by {name}")
    return "\n".join([*lines, "", f"{', '.join(counts)}."])


def summary_table(comparisons: Sequence[Comparison]) -> str:
    """Markdown: each searcher's median regret, mean over tables and numbers of workers."""
    names = [name for name in comparisons[0].runs if all(name in c.runs for c in comparisons)]
    lines = [f"| searcher | {' | '.join(_SHARE_NAMES)} |", "| --- " * (len(SHARES) + 1) + "|"]
    for name in names:
        means = np.mean([comparison.medians(name, SHARES) for comparison in comparisons], axis=0)
        lines.append(f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)


def draw(comparisons: Sequence[Comparison], path: Path, of: Of) -> None:
    """A picture: one panel for each table (row) and number of workers (column)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = list(dict.fromkeys(comparison.table for comparison in comparisons))
    workers = sorted({comparison.n_workers for comparison in comparisons})
    figure, axes = plt.subplots(
        len(tables), len(workers), figsize=(3.6 * len(workers), 2.8 * len(tables)),
        squeeze=False, sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    colors: Mapping[str, str] = {}
    for comparison in comparisons:
        axis = axes[tables.index(comparison.table)][workers.index(comparison.n_workers)]
        colors = {name: f"C{number}" for number, name in enumerate(comparison.runs)}
        for name in comparison.runs:
            _draw_searcher(axis, comparison, name, colors[name], of)
        axis.set(yscale="log", title=f"{comparison.table}, {comparison.n_workers} workers")
    unit = "epochs" if of == "epochs" else "simulated time"
    figure.supxlabel(f"share of the budget, in {unit}")
    figure.supylabel("normalised regret")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 * len(workers))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_searcher(axis: Any, comparison: Comparison, name: str, color: str, of: Of) -> None:
    regrets = comparison.regrets(name, _GRID, of)
    low, middle, high = np.maximum(_quartiles(regrets), _SMALLEST)
    known = np.isfinite(high)
    width = 2.2 if name == OURS else 1.2
    axis.plot(_GRID[known], middle[known], color=color, label=name, linewidth=width)
    axis.fill_between(_GRID[known], low[known], high[known], color=color, alpha=0.12, linewidth=0)
