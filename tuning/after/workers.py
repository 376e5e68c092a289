"""The same training function across workers, under Ray Train; ``train_all`` runs in each."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainables.metrics import Direction
from trainables.task import EpochReport, Strategy, TrainingRun
from trainables.training.checkpoint import DESCRIPTION
from tuning.hosting.node_needs import Needs, check_fitness
from tuning.storage.code_archive import train_file_here
from tuning.storage.open_store import open_store
from tuning.storage.stores import CheckpointStore
from tuning.storage.trial_checkpoints import BEST, put_report, save_share
from tuning.user_code.loading import training_function

CURVE_FILE, TEST_FILE, ERROR_FILE = "curve.json", "test.json", "error.txt"


@dataclass(frozen=True)
class Repetition:
    """One configuration to train with several seeds. Plain values, so that it travels anywhere."""

    config: dict[str, Any]
    seeds: list[int]
    task: str | None
    train_file: str | None
    key: str  # of what it leaves, in the sweep's store
    store: Mapping[str, Any]  # how to reach that, as StoreAddress has it
    cache_folder: str
    metric: str
    mode: Direction
    n_threads: int
    device: str
    prefix_cache_bytes: int | None
    strategy: Strategy = "ddp"
    may_fail: bool = False  # then its traceback is written to a file, and the others go on
    needs: Mapping[str, Any] | None = None  # this and the next as Assignment has them
    data_fingerprint: str | None = None


def seed_key(key: str, seed: int) -> str:
    """Where the training with ``seed`` keeps its files, in the sweep's store."""
    return f"{key}/seed-{seed}"


def best_key(key: str, seed: int) -> str:
    """Where the training with ``seed`` keeps its best epoch."""
    return f"{seed_key(key, seed)}/{BEST}"


def train_all(settings: dict[str, Any]) -> None:
    """Train each repetition; the first worker tests what they left, last of all.

    Args:
        settings: ``repetitions``, a list of ``Repetition`` as dictionaries.
    """
    repetitions = [Repetition(**each) for each in settings["repetitions"]]
    tested = []
    for repetition in repetitions:
        run = _run(repetition)
        try:
            _train_seeds(repetition, run)
            tested.append((repetition, run))
        except Exception:
            if not repetition.may_fail:
                raise
            reason = traceback.format_exc().encode()
            open_store(repetition.store).write(f"{repetition.key}/{ERROR_FILE}", reason)
    for repetition, run in tested:
        for seed in repetition.seeds if run.rank == 0 else ():
            _test(repetition, seed, replace(run, world_size=1))


def _run(repetition: Repetition) -> TrainingRun:
    from ray import train as ray_train
    from ray.train.torch import get_device

    context = ray_train.get_context()
    return TrainingRun(
        cache_folder=Path(repetition.cache_folder),
        device=str(get_device()) if repetition.device == "cuda" else repetition.device,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        strategy=repetition.strategy,
        n_threads=repetition.n_threads,
        prefix_cache_bytes=repetition.prefix_cache_bytes,
    )


def _train_seeds(repetition: Repetition, run: TrainingRun) -> None:
    """Train once per seed; the first worker keeps each seed's best epoch."""
    from ray import train as ray_train

    store = open_store(repetition.store)
    train = training_function(repetition.task, _prepare_node(repetition, store))
    for seed in repetition.seeds:
        curve: dict[int, dict[str, float]] = {}
        for report in train({**repetition.config, "seed": seed}, run):
            curve[report.epoch] = dict(report.metrics)
            _keep_best(report, curve, seed, repetition, store, run)
            if run.rank == 0:
                _write(store, f"{seed_key(repetition.key, seed)}/{CURVE_FILE}", curve)
            ray_train.report({"seed": seed, "epoch": report.epoch, **report.metrics})


def _prepare_node(repetition: Repetition, store: CheckpointStore) -> str | None:
    """See that this node has what is needed; the user's training file, if there is one, on it.

    Raises:
        Unfit: data or files are missing here, or are not what the driver has.
    """
    if repetition.needs is None:
        return repetition.train_file
    cache_folder, needs = Path(repetition.cache_folder), Needs(**repetition.needs)
    fingerprint = repetition.data_fingerprint
    check_fitness(repetition.task, repetition.config, fingerprint, needs, cache_folder)
    if repetition.train_file is None:
        return None
    return train_file_here(repetition.train_file, needs.code, store, cache_folder)


def _test(repetition: Repetition, seed: int, run: TrainingRun) -> None:
    """Measure a seed's best epoch on the test split: the only place that ever reads it."""
    store, key = open_store(repetition.store), best_key(repetition.key, seed)
    if store.peek(key, DESCRIPTION) is None:
        return  # a user's own training: only that knows how to load what it saved
    from trainables.tasks.predictor import Predictor

    folder = store.get(key)
    assert folder is not None
    predictor = Predictor(folder, run.device)
    evaluation = predictor.evaluate("test", run)
    result = {
        "metrics": evaluation.metrics,
        "artifacts": {
            name: base64.b64encode(content).decode()
            for name, content in predictor.artifacts(evaluation).items()
        },
    }
    _write(store, f"{seed_key(repetition.key, seed)}/{TEST_FILE}", result)
    store.release(key)


def _write(store: CheckpointStore, path: str, content: object) -> None:
    store.write(path, json.dumps(content).encode())


def _keep_best(
    report: EpochReport,
    curve: dict[int, dict[str, float]],
    seed: int,
    repetition: Repetition,
    store: CheckpointStore,
    run: TrainingRun,
) -> None:
    """Save the epoch if it is the best; its metrics are the same in all workers."""
    values = [metrics[repetition.metric] for metrics in curve.values()]
    best = max(values) if repetition.mode == "max" else min(values)
    value = report.metrics[repetition.metric]
    if value != best or values.index(best) != len(values) - 1:
        return
    if run.rank == 0:
        put_report(store, best_key(repetition.key, seed), report, value, curve)
    elif run.strategy == "fsdp":
        save_share(report)
