"""Trains configurations with several seeds under Ray Train, and reads back what came of it."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.errors import InputError, RunFailed
from tuning.hosting import BEST
from tuning.live import View
from tuning.resources import Node, Resources, share_out
from tuning.runner import prepare_ray
from tuning.sweep import Sweep
from tuning.workers import CURVE_FILE, ERROR_FILE, TEST_FILE, Repetition, seed_folder, train_all


@dataclass(frozen=True)
class SeedResult:
    """One training of a configuration."""

    seed: int
    value: float  # best value of the sweep's metric
    curve: Mapping[int, Mapping[str, float]]
    test: Mapping[str, float] | None
    classes: tuple[str, ...]
    confusion: list[list[int]]
    checkpoint: Path


@dataclass(frozen=True)
class Training:
    """A configuration to train with several seeds."""

    name: str  # for a person
    config: Mapping[str, Any]
    seeds: list[int]
    folder: Path
    may_fail: bool = False  # then its results are None, and the others stand


def train(
    sweep: Sweep, trainings: list[Training], folder: Path, n_workers: int, view: View
) -> list[list[SeedResult] | None]:
    """Train all under Ray Train, one after the other; the test split is read at the very end.

    Args:
        folder: where the reason of a failure is written.

    Returns:
        Of each training the results of its seeds; None if it may fail and did.

    Raises:
        InputError: the workers do not fit.
        RunFailed: a training failed that may not.
    """
    prepare_ray()
    from tuning import cluster

    view.say("starting ray …")
    alive = cluster.start(sweep)
    try:
        nodes = cluster.largest_extent(alive, cluster.to_come(sweep))
        resources = _worker_resources(sweep, nodes, n_workers)
        repetitions = [_repetition(sweep, training, resources) for training in trainings]
        names = " and ".join(training.name for training in trainings)
        view.say(
            f"training {names} with {len(trainings[0].seeds)} seeds, "
            f"{n_workers} workers of {resources.cpus_per_trial:g} CPUs each …"
        )
        with _progress(trainings, sweep.metric, view):
            _fit(repetitions, resources, n_workers)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        details = folder / ERROR_FILE
        folder.mkdir(parents=True, exist_ok=True)
        details.write_text(str(error))
        reason = str(error).strip().splitlines()[-1]
        raise RunFailed(f"retraining failed: {reason}; details in {str(details)!r}") from error
    finally:
        cluster.disconnect()
    return [
        None
        if (training.folder / ERROR_FILE).exists()
        else [_read(training.folder, seed, sweep) for seed in training.seeds]
        for training in trainings
    ]


def _repetition(sweep: Sweep, training: Training, resources: Resources) -> Repetition:
    return Repetition(
        config=dict(training.config),
        seeds=training.seeds,
        task=sweep.space.task,
        train_file=None if sweep.train_file is None else str(sweep.train_file),
        folder=str(training.folder),
        cache_folder=str(sweep.cache_folder),
        metric=sweep.metric,
        mode=sweep.mode,
        n_threads=resources.slot().n_threads,
        device="cuda" if resources.gpus_per_trial else "cpu",
        prefix_cache_bytes=sweep.prefix_cache_bytes,
        strategy=sweep.strategy,
        may_fail=training.may_fail,
    )


def _worker_resources(sweep: Sweep, nodes: Sequence[Node], n_workers: int) -> Resources:
    """As many workers as a trial had get what its got, so that the first seed repeats it.

    Another number of them shares all that there is.
    """
    return share_out(
        nodes,
        n_workers=n_workers,
        cpus_per_trial=sweep.cpus_per_trial,
        gpus_per_trial=None if sweep.gpus_per_trial == "auto" else sweep.gpus_per_trial,
        concurrency=None if n_workers == sweep.n_workers else 1,
    )


@contextmanager
def _progress(trainings: list[Training], metric: str, view: View) -> Iterator[None]:
    """Say each epoch as the first worker writes it down."""
    done = threading.Event()
    said: set[tuple[Path, str]] = set()

    def look() -> None:
        for training, seed in ((each, seed) for each in trainings for seed in each.seeds):
            path = seed_folder(training.folder, seed) / CURVE_FILE
            curve = json.loads(path.read_text()) if path.exists() else {}
            for epoch, metrics in curve.items():
                if (path, epoch) not in said:
                    said.add((path, epoch))
                    value = f"{metric} {metrics[metric]:.4f}"
                    view.say(f"{training.name}, seed {seed}, epoch {epoch}: {value}")

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


def _fit(repetitions: list[Repetition], resources: Resources, n_workers: int) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    from tuning.gang import WorkerConnections

    per_worker = {"CPU": resources.cpus_per_trial}
    if resources.gpus_per_trial:
        per_worker["GPU"] = resources.gpus_per_trial
    with tempfile.TemporaryDirectory(prefix="thaw-ray-train-") as books:
        TorchTrainer(
            train_all,
            torch_config=WorkerConnections(),
            train_loop_config={"repetitions": [asdict(each) for each in repetitions]},
            scaling_config=ray.train.ScalingConfig(
                num_workers=n_workers,
                use_gpu=bool(resources.gpus_per_trial),
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name="retrain",
                storage_path=books,
                # By default Ray tries for ever to start workers. One try may wait for nodes to
                # come: see RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S in runner.py.
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
