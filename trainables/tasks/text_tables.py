"""Tasks on texts in a column of a table, with what is predicted in another. Torch-free."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.config import TrainingConfig
from trainables.data.prepare import Made
from trainables.data.records import text
from trainables.data.splits import SplitColumn, data_files
from trainables.data.tables import TABLES, check_answer
from trainables.modalities.texts import text_data, tokenization
from trainables.modalities.texts.config import TextConfig
from trainables.prepared import DataInfo, PreparedData, Split
from trainables.targets.target import AnswerColumn, Target
from trainables.task import Task
from trainables.tasks.row import TaskRow


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
    split_column: SplitColumn = None


def check(config: TextTableConfig, *, answer: AnswerColumn) -> None:
    """Find what is wrong in milliseconds, without torch and without network.

    Raises:
        InputError: data, a column or the model is not there, or they do not go together.
    """
    check_answer(config, "text_column", answer.setting)
    text_data.check_model(config)


def prepare(config: TextTableConfig, cache_folder: Path, *, answer: AnswerColumn) -> PreparedData:
    """Token ids of each split, and what ``answer`` makes of its column.

    Raises:
        InputError: as ``check``, or the files do not make a training and a validation split.
    """
    check(config, answer=answer)
    files = data_files(config, TABLES)

    def make(assets: Path) -> Made:
        rows, notes = answer.read(config, files, "text_column", lambda path: text)
        texts = {name: [row["text_column"] for row in split] for name, split in rows.items()}
        found = answer.answers(rows, config)
        details = text_data.make_tokenizer(config, texts["train"], assets)
        splits, n_cut = {}, 0
        for name, own in texts.items():
            inputs, cut = tokenization.tokenise(own, assets, config.max_tokens, details["pad_id"])
            n_cut += cut
            splits[name] = Split({**inputs, **found.labels[name]})
        if n_cut:
            notes.append(
                f"{n_cut} of {sum(map(len, splits.values()))} texts have more than max_tokens ="
                f" {config.max_tokens} tokens and were cut"
            )
        details |= found.details
        return DataInfo(found.classes, tuple(notes), details, summary=found.summary), splits

    return text_data.prepare_tokens(config, files.values(), cache_folder, make)


def text_table_task(
    name: str,
    summary: str,
    config_type: type[TrainingConfig],
    target: Target,
    answer: AnswerColumn,
) -> TaskRow:
    """The task ``name``: predict ``target``, which the column ``answer`` has, from texts."""
    made = partial(prepare, answer=answer)
    return TaskRow(
        name=name,
        summary=summary,
        config_type=config_type,
        path_fields={"data": (), "model": ()},
        check=partial(check, answer=answer),
        fetch=text_data.fetch,
        prepare=made,
        load=partial(_load, name, made, target),
    )


def _load(name: str, made: partial[PreparedData], target: Target) -> Task:
    from trainables.modalities.texts.task import text_task

    return text_task(name, made, target, "AutoModelForSequenceClassification")
