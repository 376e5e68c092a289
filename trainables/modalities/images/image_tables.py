"""Images that a table names, with what is to be predicted of each. Torch-free."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.data.prepare import file_identity, prepare_once
from trainables.data.records import file_beside
from trainables.data.splits import SplitColumn, data_files
from trainables.data.tables import TABLES, check_answer
from trainables.errors import InputError
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.folder import Numbers, prepare_files
from trainables.modalities.images.image_data import check_model
from trainables.prepared import PreparedData
from trainables.targets.target import AnswerColumn, Answers


class ImageTableConfig(ImageConfig):
    """Settings of tasks whose images are named by a table."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (
        *ImageConfig.DATA_FIELDS,
        "path_column",
        "split_column",
    )

    data: str = Field(
        description="a CSV, TSV, JSONL or Parquet file that names the image files beside it, or a "
        "folder with such train, val and test files"
    )
    path_column: str = Field(
        default="path", description="column with the image files, from the table's folder"
    )
    split_column: SplitColumn = None


def check(config: ImageTableConfig, *, answer: AnswerColumn) -> None:
    """Find what is wrong in milliseconds, without torch, web access or reading images.

    Raises:
        InputError: data, a column or the model is not there, or they do not go together.
    """
    check_answer(config, "path_column", answer.setting)
    check_model(config)


def prepare(config: ImageTableConfig, cache_folder: Path, *, answer: AnswerColumn) -> PreparedData:
    """Each split's ``image``, uint8 [n, channels, size, size], and what ``answer`` makes.

    Raises:
        InputError: as ``check``, or the files do not make a training and a validation split.
    """
    check(config, answer=answer)
    files = data_files(config, TABLES)

    rows, notes = answer.read(config, files, "path_column", file_beside)
    images = [row["path_column"] for split in rows.values() for row in split]
    identity = {name: getattr(config, name) for name in config.DATA_FIELDS}
    identity |= {"answer": answer.setting, "files": file_identity([*files.values(), *images])}

    def answers(numbers: Numbers) -> Answers:
        for name in ("train", "val"):
            if not numbers[name]:
                raise InputError(
                    f"data = {config.data!r}: no image of the {name} split is readable"
                )
        used = {name: [rows[name][i] for i in kept] for name, kept in numbers.items()}
        return answer.answers(used, config)

    listed = {
        name: [(row["path_column"], number) for number, row in enumerate(split)]
        for name, split in rows.items()
    }
    data = Path(config.data).expanduser()
    said = (data if data.is_dir() else data.parent, notes)
    make = partial(prepare_files, config, listed, lambda items: items, answers, said)
    return prepare_once(cache_folder, identity, make)
