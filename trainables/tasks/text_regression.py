"""Texts with a number each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from trainables.data.records import number
from trainables.modalities.texts import text_data, text_tables
from trainables.modalities.texts.text_tables import TextTableConfig
from trainables.prepared import PreparedData
from trainables.targets.numbers import NUMBERS, NumbersConfig, number_answers
from trainables.task import Task
from trainables.tasks.row import TaskRow


class TextRegressionConfig(TextTableConfig, NumbersConfig):
    """Settings of regression on texts."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TextTableConfig.DATA_FIELDS, "number_column")


def prepare(config: TextRegressionConfig, cache_folder: Path) -> PreparedData:
    """Token ids of each split, and ``label`` float32 [n].

    Raises:
        InputError: the files do not make splits, or all numbers are the same.
    """
    return text_tables.prepare(
        config,
        cache_folder,
        answer="number_column",
        kind=number,
        answers=lambda splits: number_answers(splits, config),
        stratify=False,
    )


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.texts.task import text_task

    auto_class = "AutoModelForSequenceClassification"
    return text_task("text_regression", prepare, NUMBERS, auto_class)


TASK = TaskRow(
    name="text_regression",
    summary="texts with a number each; any transformers encoder",
    config_type=TextRegressionConfig,
    path_fields={"data": (), "model": ()},
    check=partial(text_tables.check, answer="number_column"),
    fetch=text_data.fetch,
    prepare=prepare,
    load=load,
)
