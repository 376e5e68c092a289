"""Words with a tag each: named entities, parts of speech."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from trainables.data.conll import SENTENCES, WORDS, check_sentences, read_sentences
from trainables.data.splits import columns_of, data_files, read_splits
from trainables.modalities.texts import tagged_words, text_data
from trainables.modalities.texts.config import TextConfig
from trainables.prepared import PreparedData
from trainables.targets import tags
from trainables.task import Task
from trainables.tasks.row import TaskRow


class TokenClassificationConfig(TextConfig, tags.TagsConfig):
    """Settings of token classification."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (
        *(*TextConfig.DATA_FIELDS, "words_column", "tags_column"),
        *("word_position", "tag_position"),
    )

    data: str = Field(
        description="a CoNLL, JSONL or Parquet file, or a folder with train, val and test files"
    )
    words_column: str = Field(default="tokens", description="list of words, in JSONL and Parquet")
    tags_column: str = Field(default="tags", description="list of tags, in JSONL and Parquet")
    word_position: int = Field(default=0, description="column of the word in CoNLL files, from 0")
    tag_position: int = Field(
        default=-1, description="column of the tag in CoNLL files, from 0; -1 is the last"
    )


def check(config: TokenClassificationConfig) -> None:
    """Find what is wrong in milliseconds, without torch and without network.

    Raises:
        InputError: data, a column or the model is not there, or they do not go together.
    """
    for path in data_files(config, SENTENCES).values():
        check_sentences(path, columns_of(config), config.word_position, config.tag_position)
    text_data.check_model(config)


def prepare(config: TokenClassificationConfig, cache_folder: Path) -> PreparedData:
    """Token ids of each split, and ``label`` int32 [n, longest]: a tag at each word's first token.

    Raises:
        InputError: as ``check``, or the files do not make a training and a validation split.
    """
    check(config)
    files = data_files(config, SENTENCES)
    at = (columns_of(config), config.word_position, config.tag_position)
    read = partial(read_splits, config, files, lambda path: read_sentences(path, *at), WORDS)
    return tagged_words.prepare_tags(config, files.values(), cache_folder, read)


def load() -> Task:
    """The task itself; imports torch."""
    from trainables.modalities.texts.task import text_task

    return text_task(
        "token_classification",
        prepare,
        tags.TAGS,
        "AutoModelForTokenClassification",
        encode=tagged_words.encode,
        units=tags.n_words,
    )


TASK = TaskRow(
    name="token_classification",
    summary="words with a tag each, such as named entities; any transformers encoder",
    config_type=TokenClassificationConfig,
    path_fields={"data": (), "model": ()},
    check=check,
    fetch=text_data.fetch,
    prepare=prepare,
    load=load,
)
