"""Texts of one class each."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainables.targets.classes import CLASS_COLUMN, CLASSES, ClassesConfig
from trainables.tasks.text_tables import TextTableConfig, text_table_task


class TextClassificationConfig(TextTableConfig, ClassesConfig):
    """Settings of text classification."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TextTableConfig.DATA_FIELDS, "label_column")

    label_column: str = Field(default="label", description="column that holds the labels")


TASK = text_table_task(
    name="text_classification",
    summary="texts of one class each; any transformers encoder",
    config_type=TextClassificationConfig,
    target=CLASSES,
    answer=CLASS_COLUMN,
)
