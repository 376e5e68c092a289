"""From a sweep's best configuration to a champion: trained anew, tested once, then registered."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

from trainables.errors import InputError
from tuning.after.champion import log_champion
from tuning.after.comparison import Gain, default_configuration, paired_gain
from tuning.after.seeds import SeedResult, Training, train
from tuning.after.workers import TEST_FILE, seed_key
from tuning.control.view import View
from tuning.record.events import Record, TrialRecord
from tuning.record.standings import best_trial, find_trial
from tuning.record.sweep import Sweep
from tuning.session.changes import use_saved_code
from tuning.storage.driver_lock import sole_driver
from tuning.storage.open_store import store_of
from tuning.tracking.mlflow_runs import check_mlflow


def retrain(
    sweep: Sweep,
    record: Record,
    *,
    trial_number: int | None,
    n_workers: int | None = None,
    n_seeds: int,
    view: View,
    baseline: bool = True,
) -> dict[str, Any]:
    """Train the best (or the given) configuration with ``n_seeds`` seeds; register the best.

    One seed is the sweep's own, so that its result can be compared with the trial's. More are
    fresh: the sweep's own has chosen the trial, and would flatter it. With two seeds or more the
    default configuration is trained with the same seeds, unless ``baseline`` is false, to tell
    whether the gain is more than what a seed does. The champion is chosen by the validation metric;
    the test split is read once, after all trainings.

    Args:
        n_workers: that train together; None: as many as the sweep's trials had.

    Returns:
        The document that ``thaw retrain --json`` prints.

    Raises:
        InputError: there is no such trial, the workers do not fit, the sweep is running, or MLflow
            does not answer.
        RunFailed: a training failed, or the champion's checkpoint is gone.
    """
    history = record.history
    trial = (
        best_trial(sweep, history)
        if trial_number is None
        else find_trial(sweep, history, trial_number)
    )
    n_workers = sweep.n_workers if n_workers is None else n_workers
    _check_counts(n_workers, n_seeds, trial)
    # Not beside a running sweep: the best is not known yet, and the test split is read only once.
    with sole_driver(sweep.name, sweep.folder):
        check_mlflow(sweep)
        return _retrain(
            use_saved_code(sweep), record, trial, n_workers, n_seeds, view, baseline=baseline
        )


def _retrain(
    sweep: Sweep,
    record: Record,
    trial: TrialRecord,
    n_workers: int,
    n_seeds: int,
    view: View,
    *,
    baseline: bool,
) -> dict[str, Any]:
    history = record.history
    key = f"retrain/{time.strftime('%Y%m%d-%H%M%S')}"
    own = int(trial.config.get("seed", sweep.seed))
    seeds = [own] if n_seeds == 1 else list(range(own + 1, own + 1 + n_seeds))
    trainings = [Training(f"trial {trial.number}'s configuration", trial.config, seeds, key)]
    default, why_not = _baseline(sweep, trial.config, n_seeds, wanted=baseline)
    if default is not None:
        trainings.append(Training("the default", default, seeds, f"{key}/default", may_fail=True))
    earlier_reads = list(history.test_reads)
    try:
        results, *others = train(sweep, trainings, n_workers, view)
    finally:
        _record_test_reads(sweep, record, trial, trainings)
    assert results is not None  # it may not fail
    champion = _champion(sweep, results)
    document = {
        **_describe_training(sweep, trial, results, champion),
        **_compare(sweep, results, trainings[1:], others, why_not),
        "test_reads_before": len(earlier_reads),
        "test_read_for_trials": earlier_reads,
    }
    record.append(
        "retrained",
        trial=None,
        number=trial.number,
        seeds=seeds,
        test=[dict(result.test) if result.test else None for result in results],
        gains=document["gains"],
    )
    view.say("logging the champion to MLflow …")
    logged = log_champion(sweep, record, trial, champion, document, view.say)
    return {
        **document,
        "model_uri": logged.model_uri,
        "mlflow_run_id": logged.run_id,
        "failure": logged.failure,
    }


def _champion(sweep: Sweep, results: list[SeedResult]) -> SeedResult:
    sign = 1 if sweep.mode == "max" else -1
    return max(results, key=lambda result: sign * result.value)


def _describe_training(
    sweep: Sweep, trial: TrialRecord, results: list[SeedResult], champion: SeedResult
) -> dict[str, Any]:
    values = [result.value for result in results]
    tests = _tests(results).items()
    return {
        "sweep": sweep.name,
        "trial": trial.number,
        "checkpoint": champion.checkpoint,
        "champion_seed": champion.seed,
        "trial_value": trial.value(sweep.metric, sweep.mode),
        "metric": sweep.metric,
        "mean": statistics.fmean(values),
        "standard_deviation": _deviation(values),
        "test": dict(champion.test) if champion.test else None,
        "test_mean": {name: statistics.fmean(each) for name, each in tests},
        "test_standard_deviation": (
            {name: _deviation(each) for name, each in tests} if len(results) > 1 else None
        ),
        "artifacts": {
            name: json.loads(content)
            for name, content in champion.artifacts.items()
            if name.endswith(".json")
        },
        "seeds": [_describe(sweep, result) for result in results],
    }


def _check_counts(n_workers: int, n_seeds: int, trial: TrialRecord) -> None:
    if n_workers < 1:
        raise InputError(f"--workers = {n_workers}: must be at least 1")
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


def _record_test_reads(
    sweep: Sweep, record: Record, trial: TrialRecord, trainings: list[Training]
) -> None:
    """Note that the test split was read, if it was: also where something failed after that."""
    store = store_of(sweep)
    n_models = sum(
        store.read(f"{seed_key(training.key, seed)}/{TEST_FILE}") is not None
        for training in trainings
        for seed in training.seeds
    )
    if n_models:
        record.append("test_read", trial=None, number=trial.number, n_models=n_models)


def _compare(
    sweep: Sweep,
    winner: list[SeedResult],
    defaults: list[Training],
    results: list[list[SeedResult] | None],
    why_not: str,
) -> dict[str, Any]:
    """How the winner compares with the default, of which there is one or, for a reason, none."""
    if not defaults:
        return {"default": None, "gains": [], "verdict": why_not}
    training, default = defaults[0], results[0]
    if default is None:
        where = store_of(sweep).name(training.key)
        reason = f"the default configuration could not be trained: see {where!r}"
        return {"default": None, "gains": [], "verdict": reason}
    gains = _gains(sweep, winner, default)
    return {
        "default": {
            "config": dict(training.config),
            "seeds": [_describe(sweep, result) for result in default],
        },
        "gains": [gain.to_json() for gain in gains],
        "verdict": gains[-1].sentence(),  # of the test split, where there is one
    }


def _gains(sweep: Sweep, winner: list[SeedResult], default: list[SeedResult]) -> list[Gain]:
    """Of the sweep's metric, then of the same metric on the test split, if that has it."""
    mine, others = ([result.value for result in results] for results in (winner, default))
    gains = [paired_gain(sweep.metric, mine, others, sweep.mode)]
    name = sweep.metric.removeprefix("val_")
    tested = [_tests(results).get(name, []) for results in (winner, default)]
    if name != sweep.metric and all(tested):
        gains.append(paired_gain(f"test_{name}", tested[0], tested[1], sweep.mode))
    return gains


def _describe(sweep: Sweep, result: SeedResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        sweep.metric: result.value,
        "test": dict(result.test) if result.test else None,
        "checkpoint": result.checkpoint,
    }


def _tests(results: list[SeedResult]) -> Mapping[str, list[float]]:
    """Each test metric's values, one per seed."""
    names = results[0].test or {}
    return {
        name: [result.test[name] for result in results if result.test is not None] for name in names
    }


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
