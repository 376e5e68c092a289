"""Optuna in one process, one trial after another, with no other library around it.

python optuna_alone.py '{"config": {...}, "trials": 40}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import optuna
from digits_training import SPACE, train

from search_spaces.domains import Float
from trainables.task import TrainingRun


def main() -> None:
    told = json.loads(sys.argv[1])
    config = {**SPACE.fixed, **told["config"]}

    def objective(trial: optuna.Trial) -> float:
        point = {}
        for name, domain in SPACE.domains.items():
            assert isinstance(domain, Float)
            point[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
        accuracies = []
        for report in train({**config, **point}, TrainingRun(cache_folder=Path())):
            accuracies.append(report.metrics["val_accuracy"])
            trial.report(accuracies[-1], report.epoch)
        return max(accuracies)

    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(dict(SPACE.starting_points[0]))
    study.optimize(objective, n_trials=told["trials"])


if __name__ == "__main__":
    main()
