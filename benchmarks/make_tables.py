"""Makes tables of learning curves for benchmarks/search.py, by real training or from formulas.

    uv run python benchmarks/make_tables.py NAME… --data FOLDER --out FOLDER

``--data`` has the folders sms_spam, banking77, fashion_mnist and weights, and sign_digits.tar.gz;
the tables that need none of them name none. Configurations are random points of the space. Tables
to develop a search on and those that are reported (benchmarks/tables) share no data.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
import torch
from curve_tables import CurveTable
from synthetic_curves import FAMILIES, make_synthetic
from table_data import load_data
from table_spaces import DIGITS_CNN, DIGITS_MLP, FASHION_HEAD, LCBENCH_MLP
from table_training import MakeNetwork, make_cnn, make_mlp, train_curve

from search_spaces.domains import SearchSpace


@dataclass(frozen=True)
class Recipe:
    """What a table is made of."""

    data: str
    n_train: int
    space: SearchSpace = LCBENCH_MLP
    make: MakeNetwork = make_mlp
    n_configurations: int = 500
    n_seeds: int = 2
    n_at_once: int = 2  # seeds trained together
    n_epochs: int = 52  # LCBench's
    n_val: int = 2000  # at most: digits have 1,797 rows in all


DEVELOPMENT = {
    "breast_cancer": Recipe("breast_cancer", 200),
    "classification": Recipe("classification", 400),
    "quantiles": Recipe("quantiles", 400),
    "sms_spam": Recipe("sms_spam", 400),
    "banking": Recipe("banking", 400),
    "sign_digits": Recipe("sign_digits", 400),
}
REPORTED = {
    "digits_mlp": Recipe("digits", 500, DIGITS_MLP, make_mlp, 500, 3, 3, 52),
    "digits_cnn": Recipe("digits", 400, DIGITS_CNN, make_cnn, 420, 3, 1, 27, n_val=700),
    "fashion_head": Recipe("fashion_features", 600, FASHION_HEAD, make_mlp, 500, 3, 3, 50),
}
RECIPES = {**DEVELOPMENT, **REPORTED}
NAMES = (*FAMILIES, *RECIPES)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        started = time.process_time()
        table = make_synthetic(name) if name in FAMILIES else make_trained(name, arguments.data)
        table.save(arguments.out / f"{name}.npz")
        row = {"table": name, "cpu_seconds": round(time.process_time() - started, 1)}
        print(json.dumps({**row, **describe(table)}), flush=True)


def make_trained(name: str, folder: Path, n_configurations: int | None = None) -> CurveTable:
    """The table of recipe ``name``: random configurations, each trained with every seed."""
    recipe = RECIPES[name]
    data = load_data(recipe.data, folder, recipe.n_train, recipe.n_val)
    generator = random.Random(name)
    n_configurations = n_configurations or recipe.n_configurations
    points = [recipe.space.sample(generator) for _ in range(n_configurations)]
    values, seconds = [], []
    for number, point in enumerate(points):
        curves = [
            train_curve(
                recipe.make,
                point,
                data,
                n_seeds=recipe.n_at_once,
                n_epochs=recipe.n_epochs,
                seed=number * recipe.n_seeds + first,
            )
            for first in range(0, recipe.n_seeds, recipe.n_at_once)
        ]
        values.append(np.concatenate([accuracies for accuracies, _ in curves]))
        seconds.append(np.mean([duration for _, duration in curves]))
        if number % 50 == 0:
            print(f"{name}: {number} of {n_configurations}", file=sys.stderr, flush=True)
    source = (
        f"{recipe.data}, {data.describe()}; one thread, seconds of CPU; "
        f"torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    )
    return CurveTable(
        name=name,
        space=recipe.space,
        configurations=points,
        values=np.stack(values),
        seconds_per_epoch=np.array(seconds),
        metric="val_accuracy",
        direction="max",
        source=source,
    )


def describe(table: CurveTable) -> dict[str, object]:
    """What to look at before a table is used: spread of the ends, and how early they show."""
    ends = table.values[:, :, -1].mean(axis=1)
    known = ~np.isnan(ends)
    ranks = ends[known].argsort().argsort()
    n_epochs = table.values.shape[2]
    early = {
        f"rank_correlation_at_{epoch}": round(
            float(np.corrcoef(table.values[known, 0, epoch - 1].argsort().argsort(), ranks)[0, 1]),
            2,
        )
        for epoch in (1, max(n_epochs // 9, 1), max(n_epochs // 3, 1))
    }
    return {
        "shape": list(table.values.shape),
        "best": round(float(np.nanmax(table.values)), 4),
        "quantiles": [round(float(q), 3) for q in np.nanquantile(ends, (0.1, 0.5, 0.9, 0.99))],
        "diverged": round(float(1 - known.mean()), 3),
        "seed_deviation": round(float(np.nanmean(table.values[:, :, -1].std(axis=1))), 4),
        "seconds_per_epoch": np.quantile(table.seconds_per_epoch, (0, 0.5, 1)).round(4).tolist(),
        **early,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("tables"), metavar="FOLDER")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        parser.error(f"unknown table {unknown[0]!r}; valid: {', '.join(NAMES)}")
    return arguments


if __name__ == "__main__":
    main()
