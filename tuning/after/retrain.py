"""From a sweep's best configuration to a champion: trained anew, tested once, then registered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

from trainables.errors import InputError, RunFailed
from trainables.tasks.table import task_row
from tuning.after.champion import log_champion
from tuning.after.comparison import describe
from tuning.control.retraining import ERROR_FILE, FIRST_NUMBER, Readings, Retrainings, trainings_of
from tuning.control.view import View
from tuning.record.events import Event, Record, SweepHistory, TrialRecord
from tuning.record.option_checks import check_options
from tuning.record.options import SweepOptions
from tuning.record.plans import RetrainingPlan
from tuning.record.standings import best_trial, find_trial
from tuning.record.sweep import Sweep
from tuning.search.starting_points import default_point
from tuning.session.sitting import farewell, use_saved_code
from tuning.session.workplace import ENGINES, NO_ENGINE, workplace
from tuning.storage.driver_lock import sole_driver
from tuning.storage.open_store import store_of
from tuning.storage.working_copy import at_home
from tuning.tracking.mlflow_client import check_mlflow

_LAST_WORD = "thaw was ended from outside; the same command goes on where it was"


def retrain(
    sweep: Sweep,
    *,
    trial_number: int | None = None,
    n_workers: int | None = None,
    n_seeds: int = 1,
    view: View,
    baseline: bool = True,
    engine: str | None = None,
) -> dict[str, Any]:
    """Train the best (or the given) configuration with ``n_seeds`` seeds; register the best.

    One seed is the sweep's own, so that its result can be compared with the trial's. More are
    fresh: the sweep's own has chosen the trial, and would flatter it. With two seeds or more the
    default configuration is trained with the same seeds, unless ``baseline`` is false. The champion
    is chosen by the validation metric; the test split is read once, after all trainings. What was
    asked for before, and was killed or failed, goes on where it was.

    Args:
        n_workers: that train together; None, as with ``engine``: as the sweep's trials had it.

    Returns the document that ``thaw retrain --json`` prints.

    Raises:
        InputError: trial, workers or engine can not be had, MLflow is away, or the sweep runs.
        RunFailed: a training failed, or the champion's checkpoint is gone.
    """
    with at_home(sweep, view.say) as start_uploads, closing(Record(sweep.folder)) as record:
        start_uploads()
        trial = _trial(sweep, record.history, trial_number)
        n_workers = sweep.n_workers if n_workers is None else n_workers
        _check_counts(n_workers, n_seeds, trial)
        check_options(SweepOptions(space="", engine=engine or sweep.engine, n_workers=n_workers))
        with sole_driver(sweep.name, sweep.folder), farewell(_LAST_WORD):
            check_mlflow(sweep)
            default, why_not = _baseline(sweep, trial.config, n_seeds, wanted=baseline)
            plan = _plan(record, trial, n_workers, n_seeds, default)
            sweep = _with_resources(use_saved_code(sweep), engine or sweep.engine, plan)
            _train(sweep, record, plan, view)
            return _finish(sweep, record, plan, why_not, view)


def _trial(sweep: Sweep, history: SweepHistory, number: int | None) -> TrialRecord:
    """The trial of a number; None: the best."""
    return best_trial(sweep, history) if number is None else find_trial(sweep, history, number)


def _plan(
    record: Record,
    trial: TrialRecord,
    n_workers: int,
    n_seeds: int,
    default: dict[str, Any] | None,
) -> RetrainingPlan:
    """What was begun before with the same words and did not come to its end, or a new plan."""
    history, own = record.history, int(trial.config.get("seed", 0))
    plan = RetrainingPlan(
        key=f"retrain/{time.strftime('%Y%m%d-%H%M%S')}",
        number=trial.number,
        seeds=[own] if n_seeds == 1 else list(range(own + 1, own + 1 + n_seeds)),
        n_workers=n_workers,
        default=default,
        first_number=max([FIRST_NUMBER - 1, *history.retrainings]) + 1,
    )
    begun = history.retraining
    if begun is not None and _request(begun) == _request(plan):
        return begun
    record.append("retraining_planned", trial=None, **asdict(plan))
    return plan


def _request(plan: RetrainingPlan) -> str:
    """What was asked for, as it is read back from the record."""
    return json.dumps(asdict(replace(plan, key="", first_number=0)), sort_keys=True)


def _with_resources(sweep: Sweep, engine: str, plan: RetrainingPlan) -> Sweep:
    """The sweep with what its retrainings get.

    As many workers as a trial had get what its got, so that the first seed repeats it. Another
    number of them shares all that there is among the trainings.
    """
    concurrency = sweep.concurrency
    if plan.n_workers != sweep.n_workers:
        concurrency = len(plan.seeds) * (1 if plan.default is None else 2)
    return replace(
        sweep,
        engine=engine,
        n_workers=plan.n_workers,
        gpus_per_trial=None if sweep.gpus_per_trial == "auto" else sweep.gpus_per_trial,
        concurrency=concurrency,
    )


def _train(sweep: Sweep, record: Record, plan: RetrainingPlan, view: View) -> None:
    """Do what is left of the plan's trainings and tests.

    Raises:
        RunFailed: one failed without which there is no champion.
    """
    trainings = Retrainings(sweep, record, plan)
    readings = Readings(sweep, record, plan, trainings)
    engine = NO_ENGINE if readings.is_done() else ENGINES[sweep.engine]()
    _say_what_is_left(record.history, plan, view)
    record.listen(_telling(sweep, record.history, view))
    with workplace(engine, sweep, view) as place:
        controller = place.controller(sweep, record, {"retraining": trainings, "test": readings})
        try:
            engine.run(controller)
        finally:
            controller.close()
    failed = trainings.failed or readings.failed
    if failed is not None:
        where = store_of(sweep).name(f"{plan.key}/{ERROR_FILE}")
        reason = (failed.error or failed.state).strip().splitlines()[-1]
        raise RunFailed(f"retraining failed: {reason}; details in {where!r}")
    if trainings.unfit is not None:
        raise RunFailed(f"retraining failed: {trainings.unfit.because}")


def _say_what_is_left(history: SweepHistory, plan: RetrainingPlan, view: View) -> None:
    trainings = trainings_of(plan, history)
    n_done = sum(each.is_done for each in trainings)
    names = dict.fromkeys(each.run.name.rpartition(", seed")[0] for each in trainings)
    done = f"; {n_done} of {len(trainings)} trainings are done" if n_done else ""
    n_seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
    view.say(f"training {' and '.join(names)} with {n_seeds}{done} …")


def _telling(sweep: Sweep, history: SweepHistory, view: View) -> Callable[[Event], None]:
    """A listener of the record that says what happens, a line each."""

    def tell(event: Event) -> None:
        kind = event["event"]
        if kind == "trouble":
            view.say(event["message"])
        elif kind in ("epoch", "trial_retried"):
            run = history.trial(event["trial"])
            if kind == "trial_retried":
                view.say(f"{run.label} starts again: {event['reason']}")
            elif run.kind == "retraining":
                value = event["metrics"][sweep.metric]
                note = f" ({event['note']})" if event["note"] else ""
                view.say(f"{run.label}, epoch {event['epoch']}: {sweep.metric} {value:.4f}{note}")
        elif kind == "test_read":
            view.say(f"measuring {event['n_models']} models on the test split …")

    return tell


def _finish(
    sweep: Sweep, record: Record, plan: RetrainingPlan, why_not: str, view: View
) -> dict[str, Any]:
    """Compare what was trained, and register the champion."""
    champion, document = describe(sweep, record.history, plan, why_not)
    view.say("logging the champion to MLflow …")
    logged = log_champion(sweep, record.history, champion, document, view.say)
    record.append(
        "retrained",
        trial=None,
        number=plan.number,
        seeds=plan.seeds,
        test=[row["test"] for row in document["seeds"]],
        gains=document["gains"],
        registered=logged["failure"] is None,
    )
    return {**document, **logged}


def _check_counts(n_workers: int, n_seeds: int, trial: TrialRecord) -> None:
    if n_seeds < 1:
        raise InputError(f"--seeds = {n_seeds}: must be at least 1")
    batch_size = trial.config.get("batch_size")
    if isinstance(batch_size, int) and batch_size < n_workers:
        raise InputError(
            f"--workers = {n_workers}: must be at most the batch size, "
            f"which is {batch_size} in trial {trial.number}"
        )


def _baseline(
    sweep: Sweep, config: Mapping[str, Any], n_seeds: int, *, wanted: bool
) -> tuple[dict[str, Any] | None, str]:
    """The default configuration, or None and why it is not trained."""
    if not wanted:
        return None, "not compared with the default configuration, as --no-baseline says"
    if n_seeds < 2:
        return None, "not compared with the default configuration: that takes --seeds 2 or more"
    default = default_configuration(sweep)
    if {**default, "seed": None} == {**config, "seed": None}:
        return None, "it is the default configuration: nothing that was searched is better"
    return default, ""


def default_configuration(sweep: Sweep) -> dict[str, Any]:
    """The full configuration that one would train without a search: see ``default_point``.

    Raises:
        InputError: these do not go together.
    """
    task = sweep.space.task
    config_type = None if task is None else task_row(task).config_type
    try:
        return sweep.configuration(default_point(sweep.space, config_type))
    except InputError as error:
        raise InputError(
            f"the default configuration: {error}; --no-baseline retrains without it"
        ) from None
