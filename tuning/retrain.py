"""From a sweep's best configuration to a champion: trained anew, tested once, then registered."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.errors import InputError, RunFailed
from tuning.hosting import BEST
from tuning.live import View
from tuning.record import Record, TrialRecord
from tuning.resources import Resources, share_out
from tuning.results import best_trial, find_trial
from tuning.runner import prepare_ray
from tuning.sweep import Sweep
from tuning.tracking import SWEEP_TAG, TRIAL_TAG, quiet_mlflow, sweep_tags
from tuning.workers import CURVE_FILE, TEST_FILE, Repetition, seed_folder, train_seeds

CHAMPION = "champion"


@dataclass(frozen=True)
class SeedResult:
    """One training of the champion's configuration."""

    seed: int
    value: float  # best value of the sweep's metric
    curve: Mapping[int, Mapping[str, float]]
    test: Mapping[str, float] | None
    classes: tuple[str, ...]
    confusion: list[list[int]]
    checkpoint: Path


def retrain(
    sweep: Sweep,
    record: Record,
    *,
    trial_number: int | None,
    n_workers: int,
    n_seeds: int,
    view: View,
) -> dict[str, Any]:
    """Train the best (or the given) configuration with ``n_seeds`` seeds; register the best.

    The first seed is the sweep's own, so that its result can be compared with the trial's. The
    champion is chosen by the validation metric; the test split is read once, after all trainings.

    Returns:
        The document that ``thaw retrain --json`` prints.

    Raises:
        InputError: there is no such trial, or the workers do not fit.
    """
    history = record.history
    trial = (
        best_trial(sweep, history)
        if trial_number is None
        else find_trial(sweep, history, trial_number)
    )
    _check_counts(n_workers, n_seeds, trial)
    folder = sweep.folder / "retrain" / time.strftime("%Y%m%d-%H%M%S")
    results = _train(sweep, trial, folder, n_workers, n_seeds, view)
    sign = 1 if sweep.mode == "max" else -1
    champion = max(results, key=lambda result: sign * result.value)
    record.append(
        "retrained",
        trial=None,
        number=trial.number,
        seeds=[result.seed for result in results],
        test=[dict(result.test) if result.test else None for result in results],
    )
    view.say("logging the champion to MLflow …")
    model_uri, run_id = _log(sweep, record, trial, results, champion)
    return {
        "sweep": sweep.name,
        "trial": trial.number,
        "model_uri": model_uri,
        "mlflow_run_id": run_id,
        "checkpoint": str(champion.checkpoint),
        "champion_seed": champion.seed,
        "trial_value": trial.value(sweep.metric, sweep.mode),
        "metric": sweep.metric,
        "test": dict(champion.test) if champion.test else None,
        "test_mean": _mean_test(results),
        "test_standard_deviation": _deviation_test(results),
        "confusion": champion.confusion,
        "classes": list(champion.classes),
        "seeds": [
            {
                "seed": result.seed,
                sweep.metric: result.value,
                "test": dict(result.test) if result.test else None,
                "checkpoint": str(result.checkpoint),
            }
            for result in results
        ],
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


def _train(
    sweep: Sweep, trial: TrialRecord, folder: Path, n_workers: int, n_seeds: int, view: View
) -> list[SeedResult]:
    """Train under Ray Train, and read back what the workers wrote."""
    prepare_ray()
    from tuning import cluster

    view.say("starting ray …")
    n_cpus, n_gpus = cluster.start(sweep)
    try:
        resources = _worker_resources(sweep, n_cpus, n_gpus, n_workers)
        first = int(trial.config.get("seed", sweep.seed))
        repetition = Repetition(
            config=trial.config,
            seeds=list(range(first, first + n_seeds)),
            task=sweep.space.task,
            train_file=None if sweep.train_file is None else str(sweep.train_file),
            folder=str(folder),
            cache_folder=str(sweep.cache_folder),
            metric=sweep.metric,
            mode=sweep.mode,
            n_threads=resources.slot().n_threads,
            device="cuda" if resources.gpus_per_trial else "cpu",
            prefix_cache_bytes=sweep.prefix_cache_bytes,
        )
        view.say(
            f"training trial {trial.number}'s configuration with {n_seeds} seeds, "
            f"{n_workers} workers of {resources.cpus_per_trial:g} CPUs each …"
        )
        with _progress(repetition, view):
            _fit(repetition, resources, n_workers)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        details = folder / "error.txt"
        folder.mkdir(parents=True, exist_ok=True)
        details.write_text(str(error))
        reason = str(error).strip().splitlines()[-1]
        raise RunFailed(f"retraining failed: {reason}; details in {str(details)!r}") from error
    finally:
        cluster.disconnect()
    return [_read(folder, seed, sweep) for seed in repetition.seeds]


def _worker_resources(sweep: Sweep, n_cpus: float, n_gpus: float, n_workers: int) -> Resources:
    """One worker gets what a trial got, so that the first seed repeats it; several share all."""
    cpus = sweep.cpus_per_trial
    if cpus is None and n_workers > 1:
        cpus = max(1.0, n_cpus // n_workers)
    resources = share_out(
        n_cpus,
        n_gpus,
        cpus_per_trial=cpus,
        gpus_per_trial=None if sweep.gpus_per_trial == "auto" else sweep.gpus_per_trial,
        concurrency=None,
    )
    if resources.concurrency < n_workers and n_workers > 1:
        raise InputError(
            f"--workers = {n_workers}: each needs {resources.cpus_per_trial:g} CPUs and "
            f"{resources.gpus_per_trial:g} GPUs, and there are {n_cpus:g} CPUs and "
            f"{n_gpus:g} GPUs, enough for {resources.concurrency}"
        )
    return resources


@contextmanager
def _progress(repetition: Repetition, view: View) -> Iterator[None]:
    """Say each epoch as the first worker writes it down."""
    done = threading.Event()
    said: set[tuple[int, str]] = set()

    def look() -> None:
        for seed in repetition.seeds:
            path = seed_folder(Path(repetition.folder), seed) / CURVE_FILE
            curve = json.loads(path.read_text()) if path.exists() else {}
            for epoch, metrics in curve.items():
                if (seed, epoch) not in said:
                    said.add((seed, epoch))
                    value = metrics[repetition.metric]
                    view.say(f"seed {seed}, epoch {epoch}: {repetition.metric} {value:.4f}")

    def follow() -> None:
        while not done.wait(1.0):
            look()
        look()

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _fit(repetition: Repetition, resources: Resources, n_workers: int) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    per_worker = {"CPU": resources.cpus_per_trial}
    if resources.gpus_per_trial:
        per_worker["GPU"] = resources.gpus_per_trial
    with tempfile.TemporaryDirectory(prefix="thaw-ray-train-") as books:
        TorchTrainer(
            train_seeds,
            train_loop_config=asdict(repetition),
            scaling_config=ray.train.ScalingConfig(
                num_workers=n_workers,
                use_gpu=bool(resources.gpus_per_trial),
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name="retrain",
                storage_path=books,
                # By default Ray tries for ever to start workers.
                failure_config=ray.train.FailureConfig(controller_failure_limit=3),
            ),
        ).fit()


def _read(folder: Path, seed: int, sweep: Sweep) -> SeedResult:
    folder = seed_folder(folder, seed)
    curve = {
        int(epoch): metrics
        for epoch, metrics in json.loads((folder / CURVE_FILE).read_text()).items()
    }
    test = json.loads((folder / TEST_FILE).read_text()) if (folder / TEST_FILE).exists() else None
    values = [metrics[sweep.metric] for metrics in curve.values()]
    return SeedResult(
        seed=seed,
        value=max(values) if sweep.mode == "max" else min(values),
        curve=curve,
        test=None if test is None else test["metrics"],
        classes=() if test is None else tuple(test["classes"]),
        confusion=[] if test is None else test["confusion"],
        checkpoint=folder / BEST,
    )


def _tests(results: list[SeedResult], name: str) -> list[float]:
    return [result.test[name] for result in results if result.test is not None]


def _mean_test(results: list[SeedResult]) -> dict[str, float]:
    names = results[0].test or {}
    return {name: statistics.fmean(_tests(results, name)) for name in names}


def _deviation_test(results: list[SeedResult]) -> dict[str, float] | None:
    names = results[0].test or {}
    if len(results) < 2:
        return None
    return {name: statistics.stdev(_tests(results, name)) for name in names}


def _log(
    sweep: Sweep,
    record: Record,
    trial: TrialRecord,
    results: list[SeedResult],
    champion: SeedResult,
) -> tuple[str | None, str]:
    """Write the champion's run; register its model as the sweep's name @ ``champion``."""
    mlflow = quiet_mlflow()
    mlflow.set_tracking_uri(sweep.tracking_uri)
    mlflow.set_experiment(sweep.experiment)
    tags = {**sweep_tags(sweep), TRIAL_TAG: f"retrain of {trial.number}"}
    if record.history.parent_run_id:
        tags["mlflow.parentRunId"] = record.history.parent_run_id
    with mlflow.start_run(run_name=f"{sweep.name}-{CHAMPION}", tags=tags) as run:
        mlflow.log_params({**trial.config, "seed": champion.seed, SWEEP_TAG: sweep.name})
        for epoch, metrics in champion.curve.items():
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            mlflow.log_metrics(finite, step=epoch)
        for result in results:
            values = {sweep.metric: result.value}
            values |= {f"test_{name}": value for name, value in (result.test or {}).items()}
            mlflow.log_metrics(
                {f"seed_{result.seed}.{name}": value for name, value in values.items()}
            )
        if champion.test is not None:
            mlflow.log_metrics({f"test_{name}": value for name, value in champion.test.items()})
            mlflow.log_dict(
                {"classes": list(champion.classes), "counts": champion.confusion},
                "confusion_matrix.json",
            )
            mlflow.log_figure(_picture(champion), "confusion_matrix.png")
    if sweep.space.task is None:
        return None, run.info.run_id
    from tuning.serving import log_model

    info = log_model(champion.checkpoint, run.info.run_id, sweep.tracking_uri, sweep.name)
    mlflow.MlflowClient().set_registered_model_alias(
        sweep.name, CHAMPION, info.registered_model_version
    )
    return f"models:/{sweep.name}@{CHAMPION}", run.info.run_id


def _picture(champion: SeedResult) -> Any:
    """The confusion matrix as a figure: rows are true classes, columns predicted ones."""
    from matplotlib.figure import Figure

    n_classes = len(champion.classes)
    side = min(4 + 0.3 * n_classes, 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(sum(row), 1) for count in row] for row in champion.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n_classes), champion.classes, rotation=90)
    axes.set_yticks(range(n_classes), champion.classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"test split, {sum(map(sum, champion.confusion))} samples")
    if n_classes <= 30:
        for true, row in enumerate(champion.confusion):
            for predicted, count in enumerate(row):
                if count:
                    colour = "white" if shares[true][predicted] > 0.5 else "black"
                    axes.text(predicted, true, str(count), ha="center", va="center", color=colour)
    return figure
