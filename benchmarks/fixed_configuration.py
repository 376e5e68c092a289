"""Train one fixed configuration with several seeds and test it, to set a champion beside it.

    uv run python benchmarks/fixed_configuration.py text_classification --seeds 3 \
        data=FOLDER label_column=category model=FOLDER learning_rate=5e-5 batch_size=8 \
        weight_decay=0 schedule=linear gradient_clip_norm=1 epochs=2

That example is the default of transformers.TrainingArguments (5.23). Prints one JSON document; each
seed's best epoch by validation is the one that is tested.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from trainables.config import check_config
from trainables.task import TrainingRun
from trainables.tasks.predictor import Predictor
from trainables.tasks.table import task_row
from trainables.training.loop import fit
from tuning.record.sweep import default_cache_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("settings", nargs="+", metavar="key=value")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    row = task_row(arguments.task)
    values = dict(setting.split("=", 1) for setting in arguments.settings)
    run = TrainingRun(cache_folder=default_cache_folder(), n_threads=arguments.threads)
    results = []
    for seed in range(arguments.seeds):
        config = check_config({**values, "seed": seed}, row.config_type, lax=True)
        started, best = time.perf_counter(), -1.0
        with tempfile.TemporaryDirectory() as folder:
            for report in fit(row.load(), config, run):
                if report.metrics["val_accuracy"] > best:
                    best = report.metrics["val_accuracy"]
                    checkpoint = Path(folder) / str(report.epoch)
                    report.save(checkpoint)
            test = Predictor(checkpoint).evaluate("test", run).metrics
        seconds = round(time.perf_counter() - started, 1)
        results.append({"seed": seed, "val_accuracy": best, "test": test, "seconds": seconds})
        print(json.dumps(results[-1]), flush=True)
    accuracies = [result["test"]["accuracy"] for result in results]
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    print(
        json.dumps(
            {
                "config": config.model_dump(),
                "seeds": results,
                "mean_test_accuracy": statistics.fmean(accuracies),
                "standard_deviation": spread,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
