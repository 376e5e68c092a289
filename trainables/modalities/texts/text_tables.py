"""Texts in a column of a table, and in another what is to be predicted of them. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.data.records import Kind
from trainables.data.splits import Splits, columns_of, data_files, read_splits
from trainables.data.tables import TABLES, check_answer, read_records
from trainables.modalities.texts import text_data
from trainables.modalities.texts.config import TextConfig
from trainables.prepared import PreparedData
from trainables.targets.target import Answers


class TextTableConfig(TextConfig):
    """Settings of tasks whose texts are in a table."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (
        *TextConfig.DATA_FIELDS,
        "text_column",
        "split_column",
    )

    data: str = Field(
        description="a CSV, TSV, JSONL or Parquet file, or a folder with train, val and test files"
    )
    text_column: str = Field(default="text", description="column that holds the texts")
    split_column: str | None = Field(
        default=None, description="column that says train, val or test for each row"
    )


def check(config: TextTableConfig, *, answer: str) -> None:
    """Find what is wrong in milliseconds, without torch and without network.

    Args:
        answer: the setting that names the column to be predicted.

    Raises:
        InputError: data, a column or the model is not there, or they do not go together.
    """
    check_answer(config, "text_column", answer)
    text_data.check_model(config)


def prepare(
    config: TextTableConfig,
    cache_folder: Path,
    *,
    answer: str,
    kind: Kind,
    answers: Callable[[Splits], Answers],
    stratify: bool,
) -> PreparedData:
    """Token ids of each split, and what ``answers`` makes of the column that ``answer`` names.

    Args:
        kind: what a value of that column is turned into.
        stratify: cut missing splits in the same proportions of each answer.

    Raises:
        InputError: as ``check``, or the files do not make a training and a validation split.
    """
    check(config, answer=answer)
    files = data_files(config, TABLES)

    def read() -> text_data.LabelledTexts:
        table = partial(read_records, columns=columns_of(config), kinds={answer: kind})
        rows, notes = read_splits(config, files, table, "text_column", answer, stratify)
        texts = {name: [row["text_column"] for row in split] for name, split in rows.items()}
        return texts, answers(rows), notes

    return text_data.prepare_texts(config, files.values(), cache_folder, read)
