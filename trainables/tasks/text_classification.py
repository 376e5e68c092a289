"""Texts of one class each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from trainables.data.text_files import check_columns
from trainables.data.text_splits import class_names, columns_of, data_files, read_splits
from trainables.errors import InputError
from trainables.modalities.texts import text_data
from trainables.modalities.texts.config import TextConfig
from trainables.prepared import PreparedData
from trainables.targets.classes import CLASSES, ClassesConfig, summary
from trainables.task import Task
from trainables.tasks.row import TaskRow


class TextClassificationConfig(TextConfig, ClassesConfig):
    """Settings of text classification."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (
        *TextConfig.DATA_FIELDS,
        "text_column",
        "label_column",
        "split_column",
    )

    data: str = Field(
        description="a CSV, TSV or JSONL file, or a folder with train, val and test files"
    )
    text_column: str = Field(default="text", description="column that holds the texts")
    label_column: str = Field(default="label", description="column that holds the labels")
    split_column: str | None = Field(
        default=None, description="column that says train, val or test for each row"
    )


def check(config: TextClassificationConfig) -> None:
    """Find what is wrong in milliseconds, without torch and without network.

    Raises:
        InputError: data, a column or the model is not there, or they do not go together.
    """
    for path in data_files(config).values():
        check_columns(path, columns_of(config))
    if config.text_column == config.label_column:
        raise InputError(f"label_column = {config.label_column!r}: must not be the text_column too")
    text_data.check_model(config)


def prepare(config: TextClassificationConfig, cache_folder: Path) -> PreparedData:
    """Token ids of each split, and ``label`` int64 [n].

    Raises:
        InputError: as ``check``, or the files do not make a training and a validation split with
            the same two or more classes.
    """
    check(config)
    files = data_files(config)
    return text_data.prepare_texts(
        config, files.values(), cache_folder, lambda: _read(config, files)
    )


def _read(config: TextClassificationConfig, files: Mapping[str, Path]) -> text_data.LabelledTexts:
    rows, notes = read_splits(config, files)
    classes = class_names(rows, config)
    index = {label: i for i, label in enumerate(classes)}
    return text_data.LabelledTexts(
        texts={name: [row.text for row in split] for name, split in rows.items()},
        labels={
            name: {"label": np.array([index[row.label] for row in split], np.int64)}
            for name, split in rows.items()
        },
        summary=summary(classes),
        classes=classes,
        notes=notes,
    )


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.texts.task import CLASSES_OF_TEXTS, text_task

    return text_task("text_classification", TASK.prepare, CLASSES, CLASSES_OF_TEXTS)


TASK = TaskRow(
    name="text_classification",
    summary="texts of one class each; any transformers encoder",
    config_type=TextClassificationConfig,
    path_fields={"data": (), "model": ()},
    check=check,
    fetch=text_data.fetch,
    prepare=prepare,
    load=load,
)
