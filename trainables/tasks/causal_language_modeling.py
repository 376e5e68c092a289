"""Texts to go on with: each next token is predicted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.data import plain_texts
from trainables.data.splits import columns_of
from trainables.modalities.texts import packed_blocks, text_data
from trainables.modalities.texts.config import TextConfig
from trainables.prepared import PreparedData
from trainables.targets import next_tokens
from trainables.task import Task
from trainables.tasks.row import TaskRow


class CausalLanguageModelingConfig(TextConfig, next_tokens.NextTokensConfig):
    """Settings of causal language modeling."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TextConfig.DATA_FIELDS, "text_column")
    PREDICTS_NEXT: ClassVar[bool] = True

    data: str = Field(
        description="a text file, a table with a column of texts, or a folder of such files"
    )
    model: str = Field(
        default="scratch:gpt2-mini",
        description="a model's name on the Hugging Face hub, a local folder, or scratch:NAME",
    )
    text_column: str = Field(default="text", description="column with the texts, in tables")


def check(config: CausalLanguageModelingConfig) -> None:
    """Find what is wrong in milliseconds, without torch and without network.

    Raises:
        InputError: data, a column or the model is not there, or they do not go together.
    """
    for path in plain_texts.document_files(config).values():
        plain_texts.check_documents(path, columns_of(config))
    text_data.check_model(config)


def prepare(config: CausalLanguageModelingConfig, cache_folder: Path) -> PreparedData:
    """Blocks of ``max_tokens`` tokens of each split, as ``packed_blocks`` makes them.

    Raises:
        InputError: as ``check``, or there is too little text.
    """
    check(config)
    files = plain_texts.document_files(config)
    paths = [path for file in files.values() for path in plain_texts.documents_in(file)]
    read = partial(plain_texts.read_document_splits, config, files)
    return packed_blocks.prepare_blocks(config, paths, cache_folder, read)


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.texts.task import text_task

    return text_task(
        "causal_language_modeling",
        prepare,
        next_tokens.NEXT_TOKENS,
        "AutoModelForCausalLM",
        encode=packed_blocks.encode,
        labels=("input_ids", "length", "n_bytes"),
        units=next_tokens.n_predicted,
        generate=next_tokens.generate,
        evaluation_batch=next_tokens.evaluation_batch,
    )


TASK = TaskRow(
    name="causal_language_modeling",
    summary="texts to go on with; any causal model of transformers",
    config_type=CausalLanguageModelingConfig,
    path_fields={"data": (), "model": ()},
    check=check,
    fetch=text_data.fetch,
    prepare=prepare,
    load=load,
)
