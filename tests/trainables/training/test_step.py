"""Models that compute their own loss, over ragged labels, under the one training loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detector import TASK, DetectorConfig, n_boxes
from toy import curve

from trainables.prepared import Ragged
from trainables.task import TrainingRun


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(cache_folder=tmp_path / "cache")


def test_ragged_arrays_come_back_as_they_were(run):
    boxes = [np.ones((2, 4)), np.zeros((0, 4)), np.full((1, 4), 3.0)]
    ragged = Ragged.of(boxes)
    assert len(ragged) == 3
    assert all((ragged[i] == each).all() for i, each in enumerate(boxes))
    prepared = TASK.prepare(DetectorConfig(), run.cache_folder)
    again = TASK.prepare(DetectorConfig(), run.cache_folder)
    assert prepared.info == again.info
    for name, split in prepared.splits.items():
        assert n_boxes(split).tolist() == n_boxes(again.splits[name]).tolist()
        assert set(split.arrays) == {"image", "boxes"}
    assert set(n_boxes(prepared.splits["train"]).tolist()) == {0, 1, 2, 3}


def test_a_detector_learns(run):
    found = curve(DetectorConfig(epochs=30, learning_rate=0.02, batch_size=8), run, TASK)
    assert found[-1]["val_recall"] > 0.95
    assert found[-1]["train_loss"] < 0.3 * found[0]["train_loss"]
    assert "val_loss" not in found[0]  # the model computes it only while it trains


def test_micro_batches_of_any_number_of_boxes_give_the_whole_batch_s_step(run):
    config = DetectorConfig(epochs=2, batch_size=16, optimizer="sgd", learning_rate=0.05)
    whole = curve(config, run, TASK)
    pieces = curve(config.model_copy(update={"micro_batch_size": 3}), run, TASK)
    for one, other in zip(whole, pieces, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
        assert other["val_recall"] == one["val_recall"]


def test_a_step_without_memory_is_done_again_in_smaller_pieces(run):
    def step(model, batch):
        if len(batch["image"]) > 5:
            raise torch.OutOfMemoryError("pretended")
        return TASK.step(model, batch)

    config = DetectorConfig(epochs=1, batch_size=16, optimizer="sgd", learning_rate=0.05)
    (found,) = curve(config, run, replace(TASK, step=step))
    (whole,) = curve(config, run, TASK)
    assert found["micro_batch_size"] == 4
    assert found["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-5)
