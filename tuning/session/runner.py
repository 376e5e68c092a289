"""Start, resume and stop a sweep."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from trainables.errors import InputError
from trainables.tasks.table import task_row
from tuning.control.confirm import Confirmations
from tuning.control.goals import CRASHED, INTERRUPTED, Ending
from tuning.control.trials import Trials
from tuning.control.view import View
from tuning.record.events import ENDED_STATES, Record, SweepHistory, read_history
from tuning.record.resources import Resources
from tuning.record.standings import best_trial
from tuning.record.sweep import Sweep
from tuning.search.samplers import search_notes
from tuning.search.space_changes import describe_dropped
from tuning.session.sitting import begin_sitting, check_disk, farewell, use_users_file
from tuning.session.summary import fetch_checkpoint, has_failed, summarize
from tuning.session.workplace import ENGINES, NO_ENGINE, Engine, Workplace, workplace
from tuning.storage.driver_lock import sole_driver
from tuning.storage.saved_sweeps import save_sweep
from tuning.storage.working_copy import at_home
from tuning.tracking.mlflow_runs import make_tracker
from tuning.tracking.optuna_storage import make_mirror


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to: the document of ``results.summarize``, and how the sweep ended."""

    summary: dict[str, Any]
    interrupted: bool
    mlflow_complete: bool

    @property
    def has_failed(self) -> bool:
        """Whether the sweep is a failure: see ``summary.has_failed``."""
        return has_failed(self.summary)


def run_sweep(sweep: Sweep, view: View, *, accept_changes: bool = False) -> SweepResult:
    """Run a sweep, or what is left of it, and log its best model.

    Args:
        accept_changes: go on even if code or data are not what they were when it last ran.

    Raises:
        InputError: another process runs this sweep, code or data have changed, no trial fits into
            the cluster, or a node of it lacks what trials need.
    """
    last_word = f"thaw was ended from outside; continue with\n  thaw resume {sweep.reference}"
    with (
        sole_driver(sweep.name, sweep.folder),
        farewell(last_word),
        at_home(sweep, view.say) as start_uploads,
    ):
        started = time.monotonic()
        sweep = use_users_file(sweep)
        history = read_history(sweep.folder)
        sitting = begin_sitting(sweep, history, view.say, accept_changes)
        check_disk(sweep, view.say)
        is_done = _is_done(sweep, history)
        engine = NO_ENGINE if is_done else ENGINES[sweep.engine]()
        view.say("nothing is left to train" if is_done else f"starting {sweep.engine} …")
        with workplace(engine, sweep, view) as place:  # before anything is written: may not fit
            record = Record(sweep.folder)
            record.append("sitting_started", **sitting)
            save_sweep(sweep)
            start_uploads()
            result = _sit(sweep, record, engine, place, view, started)
        if result.mlflow_complete and not result.interrupted:
            complete = _log_best_model(sweep, record, view)
            result = replace(result, mlflow_complete=complete)
        return result


def _is_done(sweep: Sweep, history: SweepHistory) -> bool:
    """Whether all trials that a sweep is to have are done, and none is to be confirmed."""
    trials = history.trials.values()
    all_ended = all(trial.state in ENDED_STATES for trial in trials)
    return sweep.confirm == 0 and len(trials) >= sweep.trials and all_ended


def _sit(
    sweep: Sweep, record: Record, engine: Engine, place: Workplace, view: View, started: float
) -> SweepResult:
    """One sitting: run trials until nothing is left, with all that follows the record.

    Args:
        started: by ``time.monotonic()``.
    """
    tracker = make_tracker(sweep, record, view.say)
    tracker.start()
    mirror = make_mirror(sweep, record, view.say)
    mirror.start()
    notes = [] if engine is NO_ENGINE else [*search_notes(sweep), *_describe(place.resources)]
    for note in notes:
        view.say(note)
    ending = CRASHED
    try:
        ending = _run_trials(sweep, record, engine, place, view)
    finally:
        record.append(
            "sweep_ended",
            status="KILLED" if ending is INTERRUPTED else "FINISHED",
            wall_seconds=time.monotonic() - started,
            ended_by=ending.by,
            ended_because=ending.because,
        )
        # Both take seconds, of which those of Ray's end are spent waiting.
        imports = threading.Thread(target=_import_model, args=(sweep,), daemon=True)
        will_log = ending not in (CRASHED, INTERRUPTED)
        if will_log:
            imports.start()
        engine.disconnect()
        complete = tracker.close()
        mirror.close()
        record.close()
        if will_log:
            imports.join()
    summary = summarize(sweep, record.history)
    return SweepResult(summary, ending is INTERRUPTED, complete)


def _import_model(sweep: Sweep) -> None:
    """Import what the best model is logged with; nothing where there is no such model."""
    if sweep.space.task is None:
        return
    with suppress(Exception):  # whoever needs it finds the same, and says so
        from tuning.tracking import logged_models  # noqa: F401

        task_row(sweep.space.task).load()


def _describe(resources: Resources) -> list[str]:
    """What a person should know of how many trials run at once, and with what."""
    n = resources.n_workers
    each = "each with" if n == 1 else f"each by {n} workers of"
    gpus = f" and {resources.gpus_per_trial:g} GPUs" if resources.gpus_per_trial else ""
    text = f"{resources.n_at_first} trials at once, {each} {resources.cpus_per_trial:g} CPUs{gpus}"
    if resources.most_per_gpu > 1:
        text += f"; up to {resources.most_per_gpu} on each GPU once their memory is measured"
    if not resources.waits_for:
        return [text]
    return [text, f"waiting for nodes: no trial fits yet; there may be {resources.waits_for}"]


def _run_trials(
    sweep: Sweep, record: Record, engine: Engine, place: Workplace, view: View
) -> Ending:
    """Run until nothing is left, or until the user interrupts; what ended it."""
    try:
        trials = Trials(sweep, record)
        if trials.dropped:
            view.say(describe_dropped(trials.dropped, len(record.history.trials)))
        confirmations = Confirmations(sweep, record, trials)
        controller = place.controller(
            sweep, record, {"trial": trials, "confirmation": confirmations}
        )
        view.begin(sweep, record.history, trials.n_trials)
        record.listen(view.update)
        try:
            engine.run(controller)
        finally:
            controller.close()
            view.end()
        return trials.ending
    except KeyboardInterrupt:
        return INTERRUPTED


def _log_best_model(sweep: Sweep, record: Record, view: View) -> bool:
    """Log the best checkpoint as an MLflow model; False if MLflow did not take it."""
    try:
        trial = best_trial(sweep, record.history)
    except InputError:
        return True
    if trial.mlflow_run_id is None or sweep.space.task is None:
        return True
    try:
        checkpoint = fetch_checkpoint(sweep, trial)
    except OSError as error:
        view.say(f"the best checkpoint can not be read: {error}")
        return False
    if checkpoint is None:
        return True
    from tuning.tracking.logged_models import log_model

    view.say(f"logging the model of trial {trial.number} to MLflow …")
    try:
        log_model(checkpoint, trial.mlflow_run_id, sweep.tracking_uri)
        return True
    except Exception as error:
        view.say(f"MLflow did not take the model: {type(error).__name__}: {error}")
        return False
