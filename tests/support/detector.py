"""A detector small enough for a test: it computes its loss itself, and its boxes are ragged.

A picture of 8×8 pixels has bright squares on a dark ground. The model says for each of 4×4 cells
whether a square begins in it, and how wide it is. The loss is summed over all boxes and cells, and
counts as many units as there are boxes, so images count by what is on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.data.prepare import prepare_once
from trainables.metrics import Direction
from trainables.prepared import DataInfo, PreparedData, Ragged, Split
from trainables.task import Column, Task

_SIDE, _CELLS = 8, 4


class DetectorConfig(TrainingConfig):
    METRICS: ClassVar[dict[str, Direction]] = {"val_recall": "max"}

    data: str = Field(default="squares", description="made up")
    model: str = Field(default="detector", description="made up")
    monitor: str = Field(default="val_recall", description="which epoch was best")


def prepare(config: DetectorConfig, cache_folder: Path) -> PreparedData:
    def make(assets: Path) -> tuple[DataInfo, dict[str, Split]]:
        generator = np.random.default_rng(config.split_seed)
        splits = {
            name: _draw(generator, n) for name, n in (("train", 61), ("val", 20), ("test", 20))
        }
        return DataInfo(summary="squares"), splits

    return prepare_once(cache_folder, {"squares": config.split_seed}, make)


def _draw(generator: np.random.Generator, n: int) -> Split:
    images, boxes = np.zeros((n, 1, _SIDE, _SIDE), np.float32), []
    for image in images:
        cells = generator.choice(_CELLS**2, size=generator.integers(0, 4), replace=False)
        corners = np.stack([cells % _CELLS, cells // _CELLS], axis=1) * 2
        sizes = generator.integers(1, 3, size=(len(cells), 1))
        boxes.append(np.concatenate([corners, corners + sizes], axis=1).astype(np.float32))
        for left, top, right, bottom in boxes[-1].astype(int):
            image[0, top:bottom, left:right] = 1
    return Split({"image": images, "boxes": Ragged.of(boxes)})


class Detector(nn.Module):
    """Returns a summed loss if it is given boxes and trains, else (scores, sizes) of the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 16, 2, stride=2), nn.ReLU())
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, images: Tensor, boxes: Sequence[Tensor] | None = None) -> Any:
        scores, sizes = self.head(self.trunk(images)).unbind(dim=1)
        if boxes is None:
            return scores, sizes
        assert self.training
        wanted = torch.zeros_like(scores)
        total = scores.new_zeros(())
        for number, own in enumerate(boxes):
            x, y = (own[:, 0] / 2).long(), (own[:, 1] / 2).long()
            wanted[number, y, x] = 1
            total = total + F.l1_loss(sizes[number, y, x], own[:, 2] - own[:, 0], reduction="sum")
        return total + F.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")


def n_boxes(split: Split) -> np.ndarray:
    boxes = split.arrays["boxes"]
    assert isinstance(boxes, Ragged)
    return np.diff(boxes.starts)


class Recall:
    """The share of boxes whose cell has a positive score."""

    def __init__(self) -> None:
        self._found, self._all = 0, 0

    def update(self, outputs: Any, batch: dict[str, Any]) -> None:
        for scores, own in zip(outputs[0], batch["boxes"], strict=True):
            x, y = (own[:, 0] / 2).long(), (own[:, 1] / 2).long()
            self._found += int((scores[y, x] > 0).sum())
            self._all += len(own)

    def state(self) -> tuple[int, int]:
        return self._found, self._all

    def merge(self, states: Sequence[tuple[int, int]]) -> None:
        self._found, self._all = (sum(values) for values in zip(*states, strict=True))

    def compute(self, loss: float) -> dict[str, float]:
        return {"recall": self._found / max(self._all, 1)}


def encode(items: Sequence[Any], config: Any, info: Any, assets: Path) -> dict[str, np.ndarray]:
    return {"image": np.stack(items)}


def decode(outputs: Any, batch: Any, items: Sequence[Any], trained: Any) -> list[dict[str, Any]]:
    return [{"cells": (scores > 0).nonzero().tolist()} for scores in outputs[0]]


def blocks(model: nn.Module) -> tuple[Block, ...]:
    return (Block("trunk", ("trunk",)), Block("head", ("head",)))


TASK = Task(
    name="detector",
    prepare=prepare,
    encode=encode,
    build=lambda config, info, assets, load: Detector(),
    blocks=blocks,
    transform=lambda raw, config, info, generator: raw,
    forward=lambda model, batch: model(batch["image"]),
    step=lambda model, batch: model(batch["image"], batch["boxes"]),
    loss=None,
    labels=("boxes",),
    units=n_boxes,
    meter=lambda info: Recall(),
    decode=decode,
    column=Column("image", list, lambda: np.zeros((1, _SIDE, _SIDE)), {"cells": []}),
)
