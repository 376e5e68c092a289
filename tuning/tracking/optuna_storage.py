"""The sweep as an Optuna study in a storage, for optuna-dashboard: a mirror of the record.

The study that proposes lives in memory, because an operation on a storage takes milliseconds. This
one is written behind the control loop, by a thread that follows the record. It holds each trial
once, under its own number; after a crash it is brought up to date from the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from trainables.errors import InputError
from trainables.files import cut_incomplete_line
from tuning.record.events import Event, Record, TrialRecord
from tuning.record.sweep import Sweep
from tuning.search.optuna_trials import OPTUNA_DIRECTIONS, frozen_trial, quiet_optuna
from tuning.search.study_storage import (
    JOURNAL_FILE,
    masked,
    open_journal,
    open_storage,
    sqlite_file,
    study_address,
)
from tuning.storage.addresses import check_writable
from tuning.tracking.follower import Follower

# User attributes of a trial. Somebody may queue a trial in a dashboard, so that Optuna's numbers
# need not be ours.
_NUMBER_ATTRIBUTE, _ERROR_ATTRIBUTE = "thaw.trial", "thaw.error"


def make_mirror(sweep: Sweep, record: Record, warn: Callable[[str], None]) -> Follower:
    """What keeps a sweep's study up to date, once it is started."""
    # Nothing runs yet: what the record has as running is left of a sitting that was killed.
    left = {n for n, trial in record.history.trials.items() if trial.state == "running"}
    return Follower(
        record,
        lambda: _Writer(sweep, record, left),
        warn,
        name="Optuna study",
        where=f"the study's storage {study_address(sweep)}",
    )


def check_study(sweep: Sweep) -> None:
    """See that the database that a new sweep is to be mirrored in answers, and has room for it.

    Raises:
        InputError: nothing answers there, or it has a study of the sweep's name.
    """
    assert sweep.storage is not None
    file = sqlite_file(sweep.storage)
    if file is not None and not file.exists():
        if not file.parent.is_dir():  # SQLite makes none
            raise InputError(f"--storage {sweep.storage!r}: there is no folder {file.parent}")
        check_writable(file.parent, "--storage")  # opening it would make it
        return
    quiet_optuna()
    if sweep.name in optuna.get_all_study_names(open_storage(sweep.storage, "--storage")):
        raise InputError(
            f"--storage {masked(sweep.storage)!r}: has a study {sweep.name!r} already; "
            "choose another --name"
        )


class _Writer:
    """The storage calls. Each may be repeated after it failed half-way: nothing is doubled."""

    def __init__(self, sweep: Sweep, record: Record, left: set[int]) -> None:
        quiet_optuna()
        self._sweep = sweep
        self._record = record
        self._left = left  # trials that nothing has run since this sitting began
        self._storage: BaseStorage = (
            _own_journal(sweep.folder / JOURNAL_FILE)
            if sweep.storage is None
            else open_storage(sweep.storage, "--storage")
        )
        self._study_id = -1  # until ``open``
        # What the storage has: our numbers -> its ids, or None for trials that are finished there
        self._ids: dict[int, int | None] | None = None  # None until it has been read

    def open(self) -> None:
        """Find or make the study; write what it lacks of the record."""
        sweep = self._sweep
        study = optuna.create_study(
            study_name=sweep.name,
            storage=self._storage,
            directions=[OPTUNA_DIRECTIONS[each] for each in sweep.objectives.values()],
            load_if_exists=True,
        )
        if study.metric_names is None:
            study.set_metric_names(list(sweep.objectives))
        self._study_id = self._storage.get_study_id_from_name(sweep.name)
        self._write_trials(list(self._record.history.trials))

    def write(self, events: Sequence[Event]) -> None:
        """Write the trials that ``events`` are about, as the record has them now."""
        numbers: dict[int, None] = {}
        for event in events:
            # Confirmation runs are no trials of the study: they repeat points that it has.
            if event.get("trial") in self._record.history.trials:
                numbers[event["trial"]] = None
                if event["event"] == "trial_started":
                    self._left.discard(event["trial"])
        self._write_trials(list(numbers))

    def _write_trials(self, numbers: list[int]) -> None:
        ids = self._read() if self._ids is None else self._ids
        self._ids = None  # a call that fails may have written its trial: then read again
        for number in numbers:
            trial_id = ids.get(number)
            if number in ids and trial_id is None:
                continue
            wanted = self._wanted(self._record.history.trials[number])
            if trial_id is None:
                trial_id = self._storage.create_new_trial(self._study_id, wanted)
            else:
                self._update(trial_id, wanted)
            ids[number] = None if wanted.state.is_finished() else trial_id
        self._ids = ids

    def _read(self) -> dict[int, int | None]:
        storage, study_id = self._storage, self._study_id
        return {
            trial.user_attrs[_NUMBER_ATTRIBUTE]: None
            if trial.state.is_finished()
            else storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            for trial in storage.get_all_trials(study_id, deepcopy=False)
            if _NUMBER_ATTRIBUTE in trial.user_attrs
        }

    def _wanted(self, record: TrialRecord) -> FrozenTrial:
        """The trial as the storage should have it."""
        found = frozen_trial(self._sweep.space, record, self._sweep.objectives)
        if found is None:  # its point is outside of a space that was changed since
            found = optuna.trial.create_trial(state=OptunaState.FAIL)
        if record.number in self._left and found.state == OptunaState.RUNNING:
            found.state, found.datetime_start = OptunaState.WAITING, None
        found.set_user_attr(_NUMBER_ATTRIBUTE, record.number)
        if record.error and found.state.is_finished():
            found.set_user_attr(_ERROR_ATTRIBUTE, record.error.strip().splitlines()[-1][:500])
        return found

    def _update(self, trial_id: int, wanted: FrozenTrial) -> None:
        """Bring an unfinished trial up to date; its state comes last, for it may end it."""
        storage, known = self._storage, self._storage.get_trial(trial_id)
        for epoch, value in wanted.intermediate_values.items():
            if epoch not in known.intermediate_values:
                storage.set_trial_intermediate_value(trial_id, epoch, value)
        for key, value in wanted.system_attrs.items():
            storage.set_trial_system_attr(trial_id, key, value)
        for key, value in wanted.user_attrs.items():
            storage.set_trial_user_attr(trial_id, key, value)
        if wanted.state != known.state:
            storage.set_trial_state_values(trial_id, wanted.state, wanted.values)


def _own_journal(path: Path) -> Any:
    """The journal in the sweep's folder, which nobody else writes; a damaged one is set aside."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a driver that was killed
    cut_incomplete_line(path)
    try:
        return open_journal(path)
    except Exception:
        path.replace(path.with_name(f"{path.name}.damaged"))  # the record has it all
        return open_journal(path)
