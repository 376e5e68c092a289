"""A checkpoint as a model that predicts and can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.config import check_config
from trainables.task import TrainingRun
from trainables.tasks.table import task_row
from trainables.torch_settings import n_threads
from trainables.training.checkpoint import ASSETS, read_description
from trainables.training.loop import Evaluation, evaluate
from trainables.training.models import saved_model

_BATCH = 64  # items encoded and predicted at once


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one item, and all probabilities in the order of ``classes``."""

    label: str
    probability: float
    probabilities: tuple[float, ...]


class Predictor:
    """A trained model together with all that is needed to treat new inputs as it was trained."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Load the checkpoint in ``folder``.

        Raises:
            DamagedCheckpoint: it is not whole, or not a checkpoint.
        """
        description = read_description(folder)
        row = task_row(description.task)
        self._task = row.load()
        self._config: Any = check_config(description.config, row.config_type)
        self._info = description.info
        self._assets = folder / ASSETS
        self._device = device
        built = saved_model(self._task, self._config, self._info, self._assets, folder, description)
        self._model = built.module.to(device).eval()

    @property
    def task_name(self) -> str:
        return self._task.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self._info.classes

    def predict(self, items: Sequence[bytes | str]) -> list[Prediction]:
        """Predict file contents or texts, whichever the task is about.

        Raises:
            InputError: an item can not be read; the message says which.
        """
        predictions: list[Prediction] = []
        for start in range(0, len(items), _BATCH):
            arrays = self._task.encode(
                items[start : start + _BATCH], self._config, self._info, self._assets
            )
            raw = {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}
            with torch.inference_mode():
                inputs = self._task.transform(raw, self._config, self._info, None)
                logits = self._task.forward(self._model, inputs)
            for row in logits.float().softmax(dim=1).cpu().tolist():
                best = max(range(len(row)), key=row.__getitem__)
                predictions.append(Prediction(self.classes[best], row[best], tuple(row)))
        return predictions

    def evaluate(self, split_name: str, run: TrainingRun) -> Evaluation:
        """Measure the model on a split of the data it was trained on."""
        data = self._task.prepare(self._config, run.cache_folder)
        with n_threads(run.n_threads):
            return evaluate(self._task, self._model, self._config, data, split_name, run)
