"""The pattern in Ray's documentation: each Tune trial starts a TorchTrainer, which trains.

    python torch_trainer_in_tune.py '{"config": {...}, "trials": 8, "slots": 2}'

See docs.ray.io, "Hyperparameter Tuning with Ray Tune" in Ray Train's user guides (2.60). A trial
and its one worker each reserve one CPU, so Ray is told of two CPUs per slot, whatever there are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray.train
from digits_training import train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from tune_function import run

from trainables.task import TrainingRun


def train_on_worker(config: dict[str, Any]) -> None:
    for report in train(config, TrainingRun(cache_folder=Path())):
        ray.train.report(dict(report.metrics))


def driver(config: dict[str, Any]) -> None:
    TorchTrainer(
        train_on_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=str(Path(config["times_file"]).parent / "train_results"),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    run(driver, told, n_cpus=2 * told["slots"])
