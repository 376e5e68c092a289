"""The same training function across workers, under Ray Train; ``train_all`` runs in each."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainables.checkpoint import DESCRIPTION
from trainables.metrics import Direction
from trainables.task import EpochReport, Strategy, TrainingRun
from tuning.hosting import BEST, save_report, save_share
from tuning.spaces import training_function

CURVE_FILE, TEST_FILE, ERROR_FILE = "curve.json", "test.json", "error.txt"


@dataclass(frozen=True)
class Repetition:
    """One configuration to train with several seeds. Plain values, so that it travels anywhere."""

    config: dict[str, Any]
    seeds: list[int]
    task: str | None
    train_file: str | None
    folder: str
    cache_folder: str
    metric: str
    mode: Direction
    n_threads: int
    device: str
    prefix_cache_bytes: int | None
    strategy: Strategy = "ddp"
    may_fail: bool = False  # then its traceback is written to a file, and the others go on


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the training with ``seed`` keeps its files."""
    return folder / f"seed-{seed}"


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
            Path(repetition.folder).mkdir(parents=True, exist_ok=True)
            (Path(repetition.folder) / ERROR_FILE).write_text(traceback.format_exc())
    for repetition, run in tested:
        for seed in repetition.seeds if run.rank == 0 else ():
            _test(seed_folder(Path(repetition.folder), seed), replace(run, world_size=1))


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

    train = training_function(repetition.task, repetition.train_file)
    for seed in repetition.seeds:
        folder = seed_folder(Path(repetition.folder), seed)
        curve: dict[int, dict[str, float]] = {}
        for report in train({**repetition.config, "seed": seed}, run):
            curve[report.epoch] = dict(report.metrics)
            _keep_best(report, curve, folder, repetition, run)
            if run.rank == 0:
                _write(folder / CURVE_FILE, curve)
            ray_train.report({"seed": seed, "epoch": report.epoch, **report.metrics})


def _test(folder: Path, run: TrainingRun) -> None:
    """Measure a seed's best epoch on the test split: the only place that ever reads it."""
    if not (folder / BEST / DESCRIPTION).exists():
        return  # a user's own training: only that knows how to load what it saved
    from trainables.predictor import Predictor

    predictor = Predictor(folder / BEST, run.device)
    evaluation = predictor.evaluate("test", run)
    result = {
        "metrics": evaluation.metrics,
        "classes": list(predictor.classes),
        "confusion": evaluation.meter.confusion().tolist(),
    }
    _write(folder / TEST_FILE, result)


def _write(path: Path, content: object) -> None:
    """Write JSON that a reader in another process never sees half of."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)


def _keep_best(
    report: EpochReport,
    curve: dict[int, dict[str, float]],
    folder: Path,
    repetition: Repetition,
    run: TrainingRun,
) -> None:
    """Save the epoch if it is the best; its metrics are the same in all workers."""
    values = [metrics[repetition.metric] for metrics in curve.values()]
    best = max(values) if repetition.mode == "max" else min(values)
    value = report.metrics[repetition.metric]
    if value != best or values.index(best) != len(values) - 1:
        return
    if run.rank == 0:
        save_report(report, folder / BEST, value, curve)
    elif run.strategy == "fsdp":
        save_share(report)
