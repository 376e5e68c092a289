"""Who is best: a sweep's trials in order, by fresh seeds where they were confirmed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from trainables.errors import InputError
from tuning.record.events import ENDED_STATES, SweepHistory, TrialRecord
from tuning.record.ranking import ranked
from tuning.record.sweep import Sweep


@dataclass(frozen=True)
class Confirmed:
    """A trial and what its configuration reached with fresh seeds."""

    trial: TrialRecord
    values: list[float]  # of the seeds that completed
    n_seeds: int

    @property
    def is_whole(self) -> bool:
        """Whether every seed completed: a mean over those that did would favour the unstable."""
        return len(self.values) == self.n_seeds

    @property
    def mean(self) -> float | None:
        """Of the metric's best values; None unless every seed completed."""
        return statistics.fmean(self.values) if self.is_whole else None

    @property
    def standard_deviation(self) -> float | None:
        """None for a single seed."""
        return statistics.stdev(self.values) if self.is_whole and self.n_seeds > 1 else None

    def __str__(self) -> str:
        if self.mean is None:
            n_lost = self.n_seeds - len(self.values)
            return f"no mean: {n_lost} of {self.n_seeds} fresh seeds did not complete"
        spread = "" if self.standard_deviation is None else f" ± {self.standard_deviation:.4f}"
        seeds = "one fresh seed" if self.n_seeds == 1 else f"{self.n_seeds} fresh seeds"
        return f"{self.mean:.4f}{spread} over {seeds}"


def confirmed(sweep: Sweep, history: SweepHistory) -> list[Confirmed]:
    """The confirmed trials, the best mean first; none before every planned run has ended."""
    plan = history.plan
    if plan is None:
        return []
    runs = [run for run in history.confirmations.values() if run.config["seed"] in plan.seeds]
    found = []
    for number in plan.candidates:
        mine = [run for run in runs if run.repeats == number and run.state in ENDED_STATES]
        if len(mine) < len(plan.seeds):
            return []
        values = [
            value
            for run in mine
            if run.state == "completed"
            and (value := run.value(sweep.metric, sweep.mode)) is not None
        ]
        found.append(Confirmed(history.trials[number], values, len(plan.seeds)))
    sign = -1 if sweep.mode == "max" else 1
    return sorted(found, key=lambda each: (each.mean is None, sign * (each.mean or 0.0)))


def standings(sweep: Sweep, history: SweepHistory) -> list[TrialRecord]:
    """A sweep's trials, best first: by the mean over fresh seeds where they were confirmed.

    Those that were not, or not with every seed, follow by the value that the search has seen.
    """
    first = [each.trial for each in confirmed(sweep, history) if each.is_whole]
    numbers = {trial.number for trial in first}
    rest = ranked(history.trials, sweep.metric, sweep.mode)
    return [*first, *(trial for trial in rest if trial.number not in numbers)]


def best_trial(sweep: Sweep, history: SweepHistory) -> TrialRecord:
    """The trial with the best mean over fresh seeds, else the one with the best value.

    Raises:
        InputError: no trial has reached one yet.
    """
    trials = standings(sweep, history)
    if not trials:
        counts = ", ".join(f"{count} {state}" for state, count in count_states(history).items())
        raise InputError(f"sweep {sweep.name}: no trial has reached a {sweep.metric} ({counts})")
    return trials[0]


def find_trial(sweep: Sweep, history: SweepHistory, number: int) -> TrialRecord:
    """Trial ``number``.

    Raises:
        InputError: there is no such trial.
    """
    if number not in history.trials:
        numbers = sorted(history.trials)
        valid = f"trials {numbers[0]} to {numbers[-1]}" if numbers else "no trials yet"
        raise InputError(f"--trial = {number}: sweep {sweep.name} has {valid}")
    return history.trials[number]


def count_states(history: SweepHistory) -> dict[str, int]:
    """How many trials ended in each state; others than the four only where there are some."""
    counts = history.n_in_state.copy()
    others = [state for state in counts if counts[state] and state not in ENDED_STATES]
    return {state: counts[state] for state in (*ENDED_STATES, *others)}
