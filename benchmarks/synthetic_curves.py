"""Learning curves from formulas: to try a search on before real curves have been made.

They show what real ones do: slow starters that win, fast starters that stop rising, annealing that
lifts noisy curves in the last third only, noise, and trainings that learn nothing or diverge.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from curve_tables import CurveTable, Point
from table_spaces import LCBENCH_MLP

N_CONFIGURATIONS = 1000
N_SEEDS = 2
N_EPOCHS = 52


@dataclass(frozen=True)
class Family:
    """What kind of curves; accuracies, so all are from 0 to 1."""

    best_rate: float  # log10 of the effective learning rate that ends best
    slowness: float  # how much later, in powers of e, curves that end well begin to rise
    annealing: float  # share of the accuracy that high rates gain only as the rate falls
    noise: float  # standard deviation from epoch to epoch, at the start of the annealing
    seed_noise: float  # standard deviation of the end from seed to seed
    chance: float  # accuracy of what has learnt nothing


FAMILIES = {
    "synthetic_crossing": Family(-1.6, 1.5, 0.10, 0.01, 0.004, 0.5),
    "synthetic_annealed": Family(-0.9, 0.4, 0.35, 0.04, 0.010, 0.1),
    "synthetic_noisy": Family(-1.2, 1.0, 0.15, 0.06, 0.030, 0.3),
}


def make_synthetic(name: str) -> CurveTable:
    """One table of family ``name``."""
    family = FAMILIES[name]
    generator, noise = random.Random(name), np.random.default_rng(sum(name.encode()))
    points = [LCBENCH_MLP.sample(generator) for _ in range(N_CONFIGURATIONS)]
    values = [[_curve(family, point, noise) for _ in range(N_SEEDS)] for point in points]
    seconds = [0.2 + 20 / point["batch_size"] + point["n_units"] / 200 for point in points]
    return CurveTable(
        name, LCBENCH_MLP, points, np.array(values), np.array(seconds), "val_accuracy", "max",
        source=f"formulas of benchmarks/synthetic_curves.py: {family}",
    )  # fmt: skip


def _curve(family: Family, point: Point, noise: np.random.Generator) -> np.ndarray:
    """[N_EPOCHS] accuracies."""
    # The step that noise and speed depend on (arXiv:1711.00489): rate / ((1 - momentum) · batch).
    rate = math.log10(point["learning_rate"] / (1 - point["momentum"]))
    rate -= 0.5 * math.log10(point["batch_size"] / 64)
    distance = rate - family.best_rate
    size = math.log2(point["n_units"] / 8) / 4  # 0 to 1
    end = 0.95 - 0.06 * distance**2 - 0.10 * (1 - size) ** 2
    end -= 0.15 * max(point["dropout"] - 0.2 - 0.3 * size, 0) + 0.02 * abs(point["n_layers"] - 2)
    end -= 0.05 * max(math.log10(point["weight_decay"]) + 2.5, 0)
    end = max(end + noise.normal(0, family.seed_noise), family.chance)
    epochs = np.arange(1, N_EPOCHS + 1)
    left = (1 + np.cos(np.pi * epochs / N_EPOCHS)) / 2  # of the rate, by cosine annealing
    quality = max(end - family.chance, 0) / (0.95 - family.chance)
    middle = 2 * math.exp(family.slowness * quality + 0.8 * (point["n_layers"] - 1) / 3)
    middle *= math.exp(-0.9 * min(distance, 1.0))  # small steps are slow
    risen = 1 - np.exp(-((epochs / middle) ** (0.7 + 0.5 * quality)))
    held_back = family.annealing * left * min(max(distance + 0.7, 0), 1.5)
    curve = family.chance + (end - family.chance) * risen * (1 - held_back)
    curve += noise.normal(0, family.noise, N_EPOCHS) * (0.1 + left) * quality
    if distance > 2.0:  # diverged: as good as chance from some epoch on
        curve[noise.integers(0, 10) :] = family.chance
    return np.clip(curve, 0.0, 1.0)
