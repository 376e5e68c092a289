"""Benchmark 2: how near trials of 5 s come to what two slots can do at best.

The ideal is the seconds of pure training in one warm process, times trials, divided by slots.
Efficiency is the ideal divided by the wall time after start-up (see ``times.SweepTimes``). Beside
it stands the same against two warm processes that train side by side: what they take from each
other no scheduler of trials can give back.
"""

from __future__ import annotations

import statistics

from digits_trials import Workload, pure_trials, run_sweep, thaw, workload
from figures import Figure

_TRIAL_SECONDS = 5.0
_N_SLOTS = 2
_GOAL = 0.90


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Run a sweep of Thaw ``repeats`` times.

    Raises:
        RuntimeError: it failed.
    """
    steps = 20
    if not quick:
        with workload(1000) as probe:
            steps = round(probe.steps * _TRIAL_SECONDS / _pure_seconds(probe, 1))
    with workload(steps) as work:
        rounds = [_round(work, 4 if quick else 12) for _ in range(repeats)]
    alone, beside, seconds = (list(column) for column in zip(*rounds, strict=True))
    note = "quick: shows only that it runs" if quick else ""
    return [
        Figure(
            "efficiency, ideal from one process",
            statistics.median(alone),
            "of 1",
            _GOAL,
            "more",
            note,
            alone,
        ),
        Figure(
            "efficiency, ideal from two side by side",
            statistics.median(beside),
            "of 1",
            None,
            "more",
            note,
            beside,
        ),
        Figure(
            "pure training, one process",
            statistics.median(seconds),
            "s",
            note=note,
            repeats=seconds,
        ),
    ]


def _round(work: Workload, n_trials: int) -> tuple[float, float, float]:
    """Efficiency against one and against two processes, and the seconds of one pure training."""
    before = {n: _pure_seconds(work, n) for n in (1, _N_SLOTS)}
    times, _ = run_sweep(work, thaw, n_trials, _N_SLOTS)
    # Before and after: a machine that becomes slower meanwhile then cancels.
    pure = {n: statistics.fmean([before[n], _pure_seconds(work, n)]) for n in before}
    alone, beside = (seconds / times.slot_seconds_per_trial for seconds in pure.values())
    return alone, beside, pure[1]


def _pure_seconds(work: Workload, n_processes: int) -> float:
    trials = pure_trials(work, n_processes, 2)
    return statistics.fmean(trial.ended - trial.started for trial in trials)
