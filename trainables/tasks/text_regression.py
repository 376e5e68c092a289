"""Texts with a number each."""

from __future__ import annotations

from typing import ClassVar

from trainables.targets.numbers import NUMBER_COLUMN, NUMBERS, NumbersConfig
from trainables.tasks.text_tables import TextTableConfig, text_table_task


class TextRegressionConfig(TextTableConfig, NumbersConfig):
    """Settings of regression on texts."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TextTableConfig.DATA_FIELDS, "number_column")


TASK = text_table_task(
    name="text_regression",
    summary="texts with a number each; any transformers encoder",
    config_type=TextRegressionConfig,
    target=NUMBERS,
    answer=NUMBER_COLUMN,
)
