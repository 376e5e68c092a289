"""The best of a sweep, run again with fresh seeds, so that the winner is not the luckiest trial.

Confirmation runs are trials of another kind: the same engines run them, the record and MLflow have
them, but no sampler is told of them and no scheduler stops them. They leave no checkpoint; that of
the trial they confirm is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tuning.control.goals import OF_FAILURE
from tuning.control.runs import Orders, Runs
from tuning.control.trials import Trials
from tuning.hosting.assignment import EpochResult
from tuning.record.events import ENDED_STATES, Record, SweepHistory, TrialRecord, TrialState
from tuning.record.plans import ConfirmationPlan
from tuning.record.ranking import ranked
from tuning.record.sweep import Sweep
from tuning.storage.stores import trial_key

FIRST_NUMBER = 1_000_000  # of confirmation runs: a sweep's trials are numbered without gaps
# Beyond the sweep's own seed. `retrain` takes the next after that, and should meet none of these:
# the winner was chosen by them.
_FIRST_FRESH_SEED = 1_000


class Confirmations(Runs):
    """The confirmation runs of a sweep that are still to be done."""

    def __init__(self, sweep: Sweep, record: Record, trials: Trials) -> None:
        super().__init__()
        self._sweep = sweep
        self._record = record
        self._trials = trials

    @property
    def n_ahead(self) -> int:
        return self._sweep.confirm * self._sweep.confirm_seeds

    def is_over(self, n_running: int) -> bool:
        """Whether none is left to be started, or is wanted."""
        is_wanted = self._sweep.confirm > 0 and self._trials.ending.by not in OF_FAILURE
        return not is_wanted or super().is_over(n_running)

    def orders(self, run: TrialRecord) -> Orders:
        # A value that no epoch beats, so that none is saved for being the best.
        unreachable = math.inf if self._sweep.mode == "max" else -math.inf
        return Orders(trial_key(run.number), save_beyond=unreachable)

    def observe(self, run: TrialRecord, result: EpochResult) -> TrialState | None:
        self._trials.keeper.look()
        return None

    def ended(self, run: TrialRecord) -> None:
        self._trials.keeper.discard(run)

    def _to_do(self) -> Iterator[TrialRecord]:
        """What the record lacks of the best configurations × fresh seeds."""
        self._trials.end(self._trials.ending)
        sweep, history = self._sweep, self._record.history
        candidates = _best_points(sweep, history)
        first = sweep.seed + _FIRST_FRESH_SEED
        seeds = list(range(first, first + sweep.confirm_seeds))
        plan = ConfirmationPlan([trial.number for trial in candidates], seeds)
        if candidates and history.plan != plan:
            self._record.append(
                "confirmation_planned", candidates=plan.candidates, seeds=plan.seeds
            )
        known = {(run.repeats, run.config["seed"]): run for run in history.confirmations.values()}
        number = FIRST_NUMBER + len(known)
        for seed in seeds:
            for trial in candidates:
                run = known.get((trial.number, seed))
                if run is None:
                    config = {**trial.config, "seed": seed}
                    yield TrialRecord(
                        number,
                        config,
                        trial.point,
                        kind="confirmation",
                        repeats=trial.number,
                        name=f"confirmation of trial {trial.number} with seed {seed}",
                    )
                    number += 1
                elif run.state not in ENDED_STATES:
                    yield run


def _best_points(sweep: Sweep, history: SweepHistory) -> list[TrialRecord]:
    """The ``sweep.confirm`` best trials, of equal points only the best one."""
    found: list[TrialRecord] = []
    for trial in ranked(history.trials, sweep.metric, sweep.mode):
        if len(found) == sweep.confirm:
            break
        if all(trial.point != other.point for other in found):
            found.append(trial)
    return found
