"""The table of built-in tasks: one row each. Imports no torch; a row's ``load`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainables.config import check_config
from trainables.errors import InputError, unknown
from trainables.metrics import Direction
from trainables.task import EpochReport, TrainingRun
from trainables.tasks import (
    causal_language_modeling,
    image_classification,
    image_regression,
    text_classification,
    text_regression,
    token_classification,
)
from trainables.tasks.row import TaskRow

TASKS: dict[str, TaskRow] = {
    row.name: row
    for row in (
        image_classification.TASK,
        image_regression.TASK,
        text_classification.TASK,
        text_regression.TASK,
        token_classification.TASK,
        causal_language_modeling.TASK,
    )
}


def task_row(name: str) -> TaskRow:
    """The row of task ``name``.

    Raises:
        InputError: there is no such task.
    """
    if name not in TASKS:
        raise InputError(unknown("task", name, TASKS))
    return TASKS[name]


def known_metrics() -> dict[str, Direction]:
    """The metrics of all tasks, and which way is better: as far as names tell of a user's own."""
    return {name: direction for row in TASKS.values() for name, direction in row.metrics.items()}


def train_task(name: str, values: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    """Train task ``name`` with the configuration ``values``, as ``fit`` does."""
    from trainables.training.loop import fit

    row = task_row(name)
    return fit(row.load(), check_config(values, row.config_type), run)
