"""What the soak trains: softmax regression on scikit-learn's digits, in numpy.

The numbers of an epoch depend on the seed and the epoch alone, so a training that goes on from a
checkpoint gives what the uninterrupted one gives, and a checkpoint's value can be computed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.domains import Float, Int, SearchSpace
from trainables.errors import DamagedCheckpoint
from trainables.task import EpochReport, TrainingRun

SPACE = SearchSpace(
    name="soak",
    domains={
        "learning_rate": Float(1e-3, 1.0, log=True),
        "momentum": Float(0.0, 0.95),
        "batch_size": Int(16, 256, log=True),
    },
    fixed={"data": "", "epochs": 5, "epoch_seconds": 0.3},
    starting_points=[{"learning_rate": 0.1, "momentum": 0.9, "batch_size": 64}],
)
_STATE = "state.npz"


def train(config: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    """Train for ``epochs``, each of at least ``epoch_seconds``."""
    data = load_data(Path(config["data"]))
    weights, velocity, done = np.zeros((64, 10)), np.zeros((64, 10)), 0
    if run.resume_from is not None:
        weights, velocity, done = read_state(run.resume_from)
    for epoch in range(done + 1, config["epochs"] + 1):
        time.sleep(config["epoch_seconds"])
        order = np.random.default_rng([config["seed"], epoch]).permutation(len(data["x_train"]))
        for start in range(0, len(order), config["batch_size"]):
            rows = order[start : start + config["batch_size"]]
            gradient = _gradient(weights, data["x_train"][rows], data["y_train"][rows])
            velocity = config["momentum"] * velocity - config["learning_rate"] * gradient
            weights = weights + velocity

        def save(folder: Path, state: tuple = (weights, velocity, epoch)) -> None:
            np.savez(folder / _STATE, weights=state[0], velocity=state[1], epoch=state[2])

        metrics = {"val_accuracy": accuracy(weights, data), "pid": float(os.getpid())}
        yield EpochReport(epoch, metrics, save)


def load_data(path: Path) -> dict[str, np.ndarray]:
    """The arrays that ``write_data`` wrote."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def write_data(path: Path) -> None:
    """scikit-learn's digits: pixels in [0, 1] [n, 64], classes [n]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y, n_train = digits.data / 16, digits.target, 1400
    np.savez(path, x_train=x[:n_train], y_train=y[:n_train], x_val=x[n_train:], y_val=y[n_train:])


def read_state(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Weights, velocity and epoch of a checkpoint.

    Raises:
        DamagedCheckpoint: it can not be read.
    """
    try:
        with np.load(folder / _STATE) as file:
            return file["weights"], file["velocity"], int(file["epoch"])
    except Exception as error:
        raise DamagedCheckpoint(f"checkpoint {str(folder)!r} is damaged: {error}") from error


def accuracy(weights: np.ndarray, data: Mapping[str, np.ndarray]) -> float:
    """On the validation split."""
    return float(((data["x_val"] @ weights).argmax(1) == data["y_val"]).mean())


def _gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    logits = x @ weights
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(y)), y] -= 1
    return x.T @ shares / len(y)
