"""Texts of one class each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.data.records import label
from trainables.modalities.texts import text_data, text_tables
from trainables.modalities.texts.text_tables import TextTableConfig
from trainables.prepared import PreparedData
from trainables.targets.classes import CLASSES, ClassesConfig, class_answers
from trainables.task import Task
from trainables.tasks.row import TaskRow


class TextClassificationConfig(TextTableConfig, ClassesConfig):
    """Settings of text classification."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TextTableConfig.DATA_FIELDS, "label_column")

    label_column: str = Field(default="label", description="column that holds the labels")


def prepare(config: TextClassificationConfig, cache_folder: Path) -> PreparedData:
    """Token ids of each split, and ``label`` int64 [n].

    Raises:
        InputError: the files do not make a training and a validation split with the same two or
            more classes.
    """
    return text_tables.prepare(
        config,
        cache_folder,
        answer="label_column",
        kind=label,
        answers=lambda splits: class_answers(splits, config),
        stratify=True,
    )


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.texts.task import text_task

    auto_class = "AutoModelForSequenceClassification"
    return text_task("text_classification", prepare, CLASSES, auto_class)


TASK = TaskRow(
    name="text_classification",
    summary="texts of one class each; any transformers encoder",
    config_type=TextClassificationConfig,
    path_fields={"data": (), "model": ()},
    check=partial(text_tables.check, answer="label_column"),
    fetch=text_data.fetch,
    prepare=prepare,
    load=load,
)
