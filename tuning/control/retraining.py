"""What is trained anew for a champion: the winner and the default, seed by seed, then their tests.

Retrainings are runs of another kind: the same engines do them, beside each other in the slots that
trials get, and the record has them, so that a killed `thaw retrain` goes on where it was.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tuning.control.goals import Ending
from tuning.control.runs import Orders
from tuning.hosting.assignment import EpochResult
from tuning.record.events import Record, SweepHistory, TrialRecord, TrialState
from tuning.record.plans import RetrainingPlan
from tuning.record.sweep import Sweep
from tuning.storage.open_store import store_of
from tuning.storage.trial_checkpoints import BEST

FIRST_NUMBER = 2_000_000  # of retrainings and their tests: beyond trials and confirmations


@dataclass(frozen=True)
class Training:
    """One training of a plan, and the test of what it leaves."""

    number: int
    test_number: int
    name: str  # for a person
    config: dict[str, Any]
    key: str  # of its folder in the sweep's store
    repeats: int | None  # the trial; None: it is of the default configuration

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

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
    return [
        Training(
            plan.first_number + i,
            plan.first_number + len(each_seed) + i,
            f"{name}, seed {seed}",
            {**config, "seed": seed},
            f"{key}/seed-{seed}",
            repeats,
        )
        for i, (seed, (name, config, key, repeats)) in enumerate(each_seed)
    ]


class Retrainings:
    """The trainings of a plan that are still to be done."""

    def __init__(self, sweep: Sweep, record: Record, plan: RetrainingPlan) -> None:
        self._history = record.history
        self._store = store_of(sweep)
        self._trainings = {each.number: each for each in trainings_of(plan, record.history)}
        self._queue = [n for n in self._trainings if not is_completed(self._history, n)]
        self._drops_default = False  # because one of its trainings failed
        self.failed: TrialRecord | None = None  # a training of the winner, which ends it all
        self.unfit: Ending | None = None  # why no worker can do any

    @property
    def n_ahead(self) -> int:
        return sum(not is_completed(self._history, number) for number in self._trainings)

    @property
    def has_failed(self) -> bool:
        return self.failed is not None or self.unfit is not None

    def is_over(self, n_running: int) -> bool:
        return self.has_failed or not (self._queue or n_running)

    def next(self) -> TrialRecord | None:
        if not self._queue:
            return None
        training = self._trainings[self._queue.pop(0)]
        return self._history.retrainings.get(training.number) or TrialRecord(
            training.number,
            training.config,
            {},
            kind="retraining",
            repeats=training.repeats,
            name=training.name,
        )

    def again(self, run: TrialRecord) -> None:
        self._queue.insert(0, run.number)

    def orders(self, run: TrialRecord) -> Orders:
        return Orders(self._trainings[run.number].key)

    def observe(self, run: TrialRecord, result: EpochResult) -> TrialState | None:
        """Interrupt what nobody waits for any more; it can be gone on with."""
        is_in_vain = self.has_failed or (self._drops_default and run.repeats is None)
        return "interrupted" if is_in_vain else None

    def ended(self, run: TrialRecord) -> None:
        training = self._trainings[run.number]
        if run.state == "completed":
            with suppress(OSError):  # the newest checkpoint stays beside the best, then
                self._store.clear(training.key, training.checkpoint)
        elif run.state == "interrupted":
            return
        elif run.repeats is None:  # without it there is no comparison, but still a champion
            self._drops_default = True
            self._queue = [n for n in self._queue if self._trainings[n].repeats is not None]
        else:
            self.failed = run

    def end(self, ending: Ending) -> None:
        self.unfit = ending

    def close(self, *, is_done: bool) -> None:
        """Nothing: the record has it all."""

    def to_test(self) -> list[Training]:
        """Once they are over: those whose checkpoints are to be measured on the test split."""
        trainings = list(self._trainings.values())
        lacking = [each for each in trainings if not is_completed(self._history, each.number)]
        if any(each.repeats is None for each in lacking):
            return [each for each in trainings if each.repeats is not None]
        return trainings


class Readings:
    """The readings of the test split: of every training's best checkpoint, after all trainings."""

    def __init__(
        self, sweep: Sweep, record: Record, plan: RetrainingPlan, trainings: Retrainings
    ) -> None:
        self._record = record
        self._plan = plan
        self._trainings = trainings
        # Only a user's own training knows how to load what it has saved.
        self._is_wanted = sweep.space.task is not None
        self._tested = {each.test_number: each for each in trainings_of(plan, record.history)}
        self._queue: list[int] | None = None  # None: not planned in this sitting
        self.failed: TrialRecord | None = None

    @property
    def n_ahead(self) -> int:
        return 0  # they come in the place of the trainings

    def is_over(self, n_running: int) -> bool:
        if not self._is_wanted or self.failed is not None or self._trainings.has_failed:
            return True
        return self._queue == [] and not n_running

    def is_done(self) -> bool:
        """Whether all trainings and their tests have come to their end."""
        history = self._record.history
        wanted = self._trainings.to_test()
        return self._trainings.is_over(0) and all(
            is_completed(history, each.number)
            and (not self._is_wanted or is_completed(history, each.test_number))
            for each in wanted
        )

    def next(self) -> TrialRecord | None:
        history = self._record.history
        if self._queue is None:
            wanted = [each.test_number for each in self._trainings.to_test()]
            self._queue = [number for number in wanted if not is_completed(history, number)]
            if self._queue and not history.is_test_read:
                number, n_models = self._plan.number, len(wanted)
                self._record.append("test_read", trial=None, number=number, n_models=n_models)
        if not self._queue:
            return None
        number = self._queue.pop(0)
        training = self._tested[number]
        return history.retrainings.get(number) or TrialRecord(
            number,
            training.config,
            {},
            kind="test",
            repeats=training.repeats,
            name=f"test of {training.name}",
        )

    def again(self, run: TrialRecord) -> None:
        self._queue = [run.number, *(self._queue or [])]

    def orders(self, run: TrialRecord) -> Orders:
        training = self._tested[run.number]
        return Orders(f"{training.key}/test", evaluates=training.checkpoint)

    def observe(self, run: TrialRecord, result: EpochResult) -> TrialState | None:
        return None

    def ended(self, run: TrialRecord) -> None:
        if run.state != "completed":
            self.failed = run

    def end(self, ending: Ending) -> None:
        """Nothing: what ends the trainings ends these too."""

    def close(self, *, is_done: bool) -> None:
        """Nothing: the record has it all."""


def is_completed(history: SweepHistory, number: int) -> bool:
    """Whether a training, or a test, has come to its end."""
    run = history.retrainings.get(number)
    return run is not None and run.state == "completed"
