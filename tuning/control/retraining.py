"""What is trained anew for a champion: the winner and the default, seed by seed, then their tests.

Retrainings are runs of another kind: the same engines do them, beside each other in the slots that
trials get, and the record has them, so that a killed `thaw retrain` goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tuning.control.goals import Ending
from tuning.control.runs import Orders, Runs
from tuning.hosting.assignment import EpochResult
from tuning.record.events import Record, SweepHistory, TrialRecord, TrialState
from tuning.record.plans import RetrainingPlan
from tuning.record.sweep import Sweep
from tuning.storage.open_store import store_of
from tuning.storage.trial_checkpoints import BEST

FIRST_NUMBER = 2_000_000  # of retrainings and their tests: beyond trials and confirmations
ERROR_FILE = "error.txt"  # why one failed, beside what its configuration's trainings leave


@dataclass(frozen=True)
class Training:
    """One training of a plan, and the test of what it leaves, as the record has them now."""

    run: TrialRecord
    test: TrialRecord
    key: str  # of its folder in the sweep's store

    @property
    def is_done(self) -> bool:
        return self.run.state == "completed"

    @property
    def is_of_default(self) -> bool:
        """Whether it trains the default configuration, and not the trial's."""
        return self.run.repeats is None

    @property
    def checkpoint(self) -> str:
        """The key of its best epoch's."""
        return f"{self.key}/{BEST}"


def trainings_of(plan: RetrainingPlan, history: SweepHistory) -> list[Training]:
    """What a plan asks for: each seed of the winner, then each of the default configuration."""
    winner = history.trials[plan.number]
    wanted: list[tuple[str, dict[str, Any], str, int | None]] = [
        (f"trial {plan.number}'s configuration", winner.config, plan.key, plan.number)
    ]
    if plan.default is not None:
        wanted.append(("the default", plan.default, f"{plan.key}/default", None))
    each_seed = [(seed, each) for each in wanted for seed in plan.seeds]
    found = []
    for number, (seed, (what, config, key, repeats)) in enumerate(each_seed, plan.first_number):
        name, config = f"{what}, seed {seed}", {**config, "seed": seed}
        run = TrialRecord(number, config, {}, kind="retraining", repeats=repeats, name=name)
        test = replace(run, number=number + len(each_seed), kind="test", name=f"test of {name}")
        run, test = (history.retrainings.get(each.number, each) for each in (run, test))
        found.append(Training(run, test, f"{key}/seed-{seed}"))
    return found


class Retrainings(Runs):
    """The trainings of a plan that are still to be done."""

    def __init__(self, sweep: Sweep, record: Record, plan: RetrainingPlan) -> None:
        super().__init__()
        self._record = record
        self._plan = plan
        self._store = store_of(sweep)
        self._drops_default = False  # because one of its trainings failed
        self.failed: TrialRecord | None = None  # a training of the winner, which ends it all
        self.unfit: Ending | None = None  # why no worker can do any

    @property
    def trainings(self) -> list[Training]:
        return trainings_of(self._plan, self._record.history)

    @property
    def n_ahead(self) -> int:
        return sum(not each.is_done for each in self.trainings)

    @property
    def has_failed(self) -> bool:
        return self.failed is not None or self.unfit is not None

    def is_over(self, n_running: int) -> bool:
        return self.has_failed or super().is_over(n_running)

    def _to_do(self) -> Iterator[TrialRecord]:
        return (each.run for each in self.trainings if not each.is_done)

    def of(self, run: TrialRecord) -> Training:
        """The training that a run is, or tests."""
        return next(
            each for each in self.trainings if run.number in (each.run.number, each.test.number)
        )

    def keep_error(self, run: TrialRecord) -> None:
        folder = self.of(run).key.rpartition("/")[0]
        with suppress(OSError):
            self._store.write(f"{folder}/{ERROR_FILE}", (run.error or run.state).encode())

    def orders(self, run: TrialRecord) -> Orders:
        return Orders(self.of(run).key)

    def observe(self, run: TrialRecord, result: EpochResult) -> TrialState | None:
        """Interrupt what nobody waits for any more; it can be gone on with."""
        is_in_vain = self.has_failed or (self._drops_default and run.repeats is None)
        return "interrupted" if is_in_vain else None

    def ended(self, run: TrialRecord) -> None:
        training = self.of(run)
        if run.state == "completed":
            with suppress(OSError):  # the newest checkpoint stays beside the best, then
                self._store.clear(training.key, training.checkpoint)
            return
        if run.state == "interrupted":
            return
        self.keep_error(run)
        if training.is_of_default:  # without it there is no comparison, but still a champion
            self._drops_default = True
            self._queue = [each for each in self._queue or () if each.repeats is not None]
        else:
            self.failed = run

    def end(self, ending: Ending) -> None:
        self.unfit = ending

    def to_test(self) -> list[Training]:
        """Once they are over: those whose checkpoints are to be measured on the test split."""
        has_default = all(each.is_done for each in self.trainings if each.is_of_default)
        return [each for each in self.trainings if has_default or not each.is_of_default]


class Readings(Runs):
    """The readings of the test split: of every training's best checkpoint, after all trainings.

    Progress counts trainings alone, so ``n_ahead`` stays 0.
    """

    def __init__(
        self, sweep: Sweep, record: Record, plan: RetrainingPlan, trainings: Retrainings
    ) -> None:
        super().__init__()
        self._record = record
        self._plan = plan
        self._trainings = trainings
        # Only a user's own training knows how to load what it has saved.
        self._is_wanted = sweep.space.task is not None
        self.failed: TrialRecord | None = None

    def is_over(self, n_running: int) -> bool:
        is_wanted = self._is_wanted and self.failed is None and not self._trainings.has_failed
        return not is_wanted or super().is_over(n_running)

    def is_done(self) -> bool:
        """Whether all trainings and their tests have come to their end."""
        return self._trainings.n_ahead == 0 and not (self._is_wanted and self._left())

    def _left(self) -> list[TrialRecord]:
        return [each.test for each in self._trainings.to_test() if each.test.state != "completed"]

    def _to_do(self) -> list[TrialRecord]:
        left, history = self._left(), self._record.history
        if left and not history.is_test_read:
            number, n_models = self._plan.number, len(self._trainings.to_test())
            self._record.append("test_read", trial=None, number=number, n_models=n_models)
        return left

    def orders(self, run: TrialRecord) -> Orders:
        training = self._trainings.of(run)
        return Orders(f"{training.key}/test", evaluates=training.checkpoint)

    def ended(self, run: TrialRecord) -> None:
        if run.state != "completed":
            self._trainings.keep_error(run)
            self.failed = run
