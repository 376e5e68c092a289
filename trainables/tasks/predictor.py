"""A checkpoint as a model that predicts and can be measured, or that needs nothing beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.adapting.adapters import merge_adapters
from trainables.config import check_config
from trainables.prepared import gather
from trainables.task import Column, Evaluation, Task, Trained, TrainingRun
from trainables.tasks.table import task_row
from trainables.torch_settings import n_threads
from trainables.training.checkpoint import (
    ASSETS,
    CheckpointDescription,
    read_description,
    save_checkpoint,
)
from trainables.training.evaluation import evaluate
from trainables.training.models import saved_model

_BATCH = 64  # items encoded and predicted at once


class Predictor:
    """A trained model together with all that is needed to treat new inputs as it was trained."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Load the checkpoint in ``folder``.

        Raises:
            DamagedCheckpoint: it is not whole, or not a checkpoint.
        """
        self._task, self._trained = _load(folder, read_description(folder), device)

    @property
    def column(self) -> Column:
        """What ``predict`` takes and gives."""
        return self._task.column

    def predict(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """A row of JSON for each item, which ``column`` says what it is.

        Raises:
            InputError: an item can not be read; the message says which.
        """
        task, trained = self._task, self._trained
        rows: list[dict[str, Any]] = []
        for start in range(0, len(items), _BATCH):
            part = items[start : start + _BATCH]
            arrays = task.encode(part, trained.config, trained.info, trained.assets)
            raw = gather(arrays, np.arange(len(part)), torch.device(trained.device))
            with torch.inference_mode():
                batch = task.transform(raw, trained.config, trained.info, None)
                if task.generate is not None:
                    outputs = task.generate(trained, batch)
                else:
                    outputs = task.forward(trained.model, batch)
                rows += task.decode(outputs, batch, part, trained)
        return rows

    def evaluate(self, split_name: str, run: TrainingRun) -> Evaluation:
        """Measure the model on a split of the data it was trained on."""
        config, model = self._trained.config, self._trained.model
        data = self._task.prepare(config, run.cache_folder)
        with n_threads(run.n_threads):
            return evaluate(self._task, model, config, data, split_name, run)

    def artifacts(self, evaluation: Evaluation) -> dict[str, bytes]:
        """What is worth keeping of an evaluation, as files: name -> content."""
        if self._task.artifacts is None:
            return {}
        found = self._task.artifacts(evaluation, self._trained)
        return {name: _content(name, value) for name, value in found.items()}


def self_contained(folder: Path, place: Path) -> Path:
    """A checkpoint that holds the whole model, to predict with.

    Args:
        place: where one is written if the checkpoint in ``folder`` holds adapters alone; their
            sums with the base's weights are in it.

    Returns:
        ``folder`` or ``place``.

    Raises:
        DamagedCheckpoint: it is not whole, or not of the base that the configuration names now.
        InputError: the base's weights can not be read.
        OSError: ``place`` can not be written.
    """
    description = read_description(folder)
    if description.base is None:
        return folder
    _, trained = _load(folder, description)
    merge_adapters(trained.model)
    save_checkpoint(place, replace(description, base=None), trained.model, {}, trained.assets)
    return place


def _load(
    folder: Path, description: CheckpointDescription, device: str = "cpu"
) -> tuple[Task, Trained]:
    row = task_row(description.task)
    task, info, assets = row.load(), description.info, folder / ASSETS
    config: Any = check_config(description.config, row.config_type)
    model = saved_model(task, config, info, assets, folder, description).module
    return task, Trained(model.to(device).eval(), config, info, assets, device)


def _content(name: str, value: Any) -> bytes:
    """A figure, a text, or JSON as the content of a file."""
    if hasattr(value, "savefig"):  # matplotlib's, which only those import that draw
        file = io.BytesIO()
        value.savefig(file, format=name.rpartition(".")[2])
        return file.getvalue()
    return (value if isinstance(value, str) else json.dumps(value, indent=1)).encode()
