"""A task small enough for a test: which quadrant is a point in? Three blocks learn that at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.blocks import Block
from trainables.data.prepare import prepare_once
from trainables.prepared import DataInfo, PreparedData, Split
from trainables.targets.classes import ClassesConfig, ClassificationMeter, decode, loss
from trainables.task import Column, Task, TrainingRun
from trainables.training.loop import fit


class ToyConfig(ClassesConfig):
    data: str = "toy"
    model: str = "toy"


def prepare(config: ToyConfig, cache_folder: Path) -> PreparedData:
    def make(assets: Path) -> tuple[DataInfo, dict[str, Split]]:
        (assets / "asset.txt").write_text("belongs to the data")
        generator = np.random.default_rng(config.split_seed)
        splits = {}
        for name, n in (("train", 101), ("val", 40), ("test", 40)):
            points = generator.uniform(-1, 1, size=(n, 2)).astype(np.float32)
            quadrant = (points[:, 0] > 0) * 2 + (points[:, 1] > 0)
            splits[name] = Split({"point": points, "label": quadrant.astype(np.int64)})
        return DataInfo(classes=("a", "b", "c", "d")), splits

    return prepare_once(cache_folder, {"toy": config.split_seed}, make)


def build(config: ToyConfig, info: DataInfo, assets: Path, load_weights: bool) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU()),
        nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1)),
        nn.Linear(16, len(info.classes)),
    )


def blocks(model: nn.Module) -> tuple[Block, ...]:
    return (Block("stem", ("0",)), Block("middle", ("1",)), Block("head", ("2",)))


def transform(raw: dict[str, Any], config: Any, info: Any, generator: Any) -> dict[str, Any]:
    points = raw["point"]
    if generator is not None:
        points = points + 0.01 * torch.randn(points.shape, generator=generator)
    return {**raw, "point": points}


def encode(items: Sequence[Any], config: Any, info: Any, assets: Path) -> dict[str, np.ndarray]:
    return {
        "point": np.array([[float(x) for x in str(item).split()] for item in items], np.float32)
    }


TASK = Task(
    name="toy",
    prepare=prepare,
    build=build,
    blocks=blocks,
    transform=transform,
    forward=lambda model, inputs: model(inputs["point"]),
    loss=loss,
    meter=ClassificationMeter,
    encode=encode,
    decode=decode,
    column=Column(
        "point",
        read=lambda typed: [(each, each) for each in typed],
        example=lambda: "0 0",
        answer={"label": "a", "probability": 0.5},
    ),
    n_views=lambda config: 0,
)


TIMES = ("seconds", "samples_per_second", "peak_memory_bytes")


def curve(config: ToyConfig, run: TrainingRun, task: Task = TASK) -> list[dict[str, float]]:
    """What a training reports, without what depends on the clock."""
    return [
        {name: value for name, value in report.metrics.items() if name not in TIMES}
        for report in fit(task, config, run)
    ]
