"""Plain Ray Tune with a function trainable; with ``"reuse": true`` it keeps its actors.

python tune_function.py '{"config": {...}, "trials": 40, "slots": 2, "reuse": true}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from digits_training import SPACE, train
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from search_spaces.domains import Float
from trainables.task import TrainingRun


def objective(config: dict[str, Any]) -> None:
    for report in train(config, TrainingRun(cache_folder=Path())):
        tune.report(dict(report.metrics))


def param_space() -> dict[str, Any]:
    """Thaw's domains as Tune's."""
    space = {}
    for name, domain in SPACE.domains.items():
        assert isinstance(domain, Float)
        uniform = tune.loguniform if domain.log else tune.uniform
        space[name] = uniform(domain.low, domain.high)
    return space


def run(trainable: Any, told: dict[str, Any], n_cpus: int) -> None:
    """Search ``SPACE`` with ``trainable``; trials that fail fail the command."""
    ray.init(num_cpus=n_cpus)
    results = tune.Tuner(
        trainable,
        param_space={**SPACE.fixed, **told["config"], **param_space()},
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            num_samples=told["trials"],
            search_alg=BasicVariantGenerator(
                points_to_evaluate=[dict(SPACE.starting_points[0])], max_concurrent=told["slots"]
            ),
            reuse_actors=told.get("reuse", False),
        ),
        run_config=tune.RunConfig(storage_path=str(Path.cwd() / "ray_results"), verbose=0),
    ).fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    run(objective, told, n_cpus=told["slots"])
