"""A user's own file for Thaw, and the training that every contender runs: one small network.

Every trial does the same work whatever its configuration, and appends to ``times_file`` when it
began, had done its first step, and ended: all contenders are measured alike, from inside.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces.domains import Float, SearchSpace
from trainables.task import EpochReport, TrainingRun

_BATCH_SIZE = 32

SPACE = SearchSpace(
    name="benchmark",
    domains={
        "learning_rate": Float(1e-3, 1e-1, log=True),
        "momentum": Float(0.0, 0.95),
        "weight_decay": Float(1e-6, 1e-2, log=True),
    },
    # data: an .npz file of the digits; steps: optimiser steps per epoch
    fixed={"data": "", "times_file": "", "epochs": 3, "steps": 150, "seed": 0},
    starting_points=[{"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 1e-4}],
)


def train(config: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    """Train a small convolutional network on scikit-learn's digits."""
    started = time.monotonic()
    torch.set_num_threads(run.n_threads)
    torch.manual_seed(config["seed"])
    with np.load(config["data"]) as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config["learning_rate"],
        momentum=config["momentum"],
        weight_decay=config["weight_decay"],
    )
    stepped = 0.0
    for epoch in range(1, config["epochs"] + 1):
        for _ in range(config["steps"]):
            batch = torch.randint(len(data["train_targets"]), (_BATCH_SIZE,))
            optimizer.zero_grad()
            logits = model(data["train_images"][batch])
            F.cross_entropy(logits, data["train_targets"][batch]).backward()
            optimizer.step()
            stepped = stepped or time.monotonic()
        with torch.no_grad():
            hits = model(data["val_images"]).argmax(1) == data["val_targets"]
        accuracy = float(hits.float().mean())
        if epoch == config["epochs"]:
            _note(config, started, stepped, accuracy)

        def save(folder: Path) -> None:
            torch.save(model.state_dict(), folder / "model.pt")

        yield EpochReport(epoch, {"val_accuracy": accuracy}, save)


def _note(config: Mapping[str, Any], started: float, stepped: float, accuracy: float) -> None:
    line = {
        "pid": os.getpid(),
        "started": started,
        "stepped": stepped,
        "ended": time.monotonic(),  # seconds, on a clock that all processes share
        "point": {name: config[name] for name in SPACE.domains},
        "accuracy": accuracy,
    }
    with Path(config["times_file"]).open("a") as file:  # one short write: lines do not mix
        file.write(json.dumps(line) + "\n")
