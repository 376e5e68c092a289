"""The table of built-in tasks: one row each. Imports no torch; a row's ``load`` does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.config import (
    ImageClassificationConfig,
    TextClassificationConfig,
    TrainingConfig,
    check_config,
)
from trainables.errors import InputError, unknown
from trainables.modalities.images import image_data
from trainables.modalities.texts import text_data
from trainables.prepared import PreparedData
from trainables.task import EpochReport, Task, TrainingRun


@dataclass(frozen=True)
class TaskRow:
    """What is known of a task without importing torch, and how to get the rest."""

    summary: str
    config_type: type[TrainingConfig]
    path_fields: Mapping[str, Collection[str]]  # field that may be a path -> names that are none
    check: Callable[[Any], None]  # cheap; raises InputError
    fetch: Callable[[Any], None]  # makes remote weights local; raises InputError
    prepare: Callable[[Any, Path], PreparedData]
    load: Callable[[], Task]


def _image_classification() -> Task:
    from trainables.tasks.image_classification import TASK

    return TASK


def _text_classification() -> Task:
    from trainables.tasks.text_classification import TASK

    return TASK


TASKS: dict[str, TaskRow] = {
    "image_classification": TaskRow(
        summary="images of one class each; any torchvision classification model",
        config_type=ImageClassificationConfig,
        path_fields={"data": image_data.KNOWN_DATA, "weights": ("none", "default")},
        check=image_data.check,
        fetch=image_data.fetch,
        prepare=image_data.prepare,
        load=_image_classification,
    ),
    "text_classification": TaskRow(
        summary="texts of one class each; any transformers encoder",
        config_type=TextClassificationConfig,
        path_fields={"data": (), "model": ()},
        check=text_data.check,
        fetch=text_data.fetch,
        prepare=text_data.prepare,
        load=_text_classification,
    ),
}


def task_row(name: str) -> TaskRow:
    """The row of task ``name``.

    Raises:
        InputError: there is no such task.
    """
    if name not in TASKS:
        raise InputError(unknown("task", name, TASKS))
    return TASKS[name]


def train_task(name: str, values: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    """Train task ``name`` with the configuration ``values``, as ``fit`` does."""
    from trainables.training.loop import fit

    row = task_row(name)
    return fit(row.load(), check_config(values, row.config_type), run)
