"""Documents packed into blocks of tokens, for models of language. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.plain_texts import TEXT
from trainables.data.splits import Splits
from trainables.errors import InputError
from trainables.modalities.texts import text_data, tokenization
from trainables.modalities.texts.config import TextConfig
from trainables.prepared import Array, DataInfo, PreparedData, Split


def prepare_blocks(
    config: TextConfig,
    files: Iterable[Path],
    cache_folder: Path,
    read: Callable[[], tuple[Splits, list[str]]],
) -> PreparedData:
    """``input_ids`` int32 [n, max_tokens] and ``length``, ``n_bytes`` int32 [n] of each split.

    Documents follow one another without padding, each with the special tokens that its tokenizer
    adds, or else an end token; only the last block of a split may be shorter. ``n_bytes`` is how
    many bytes of text the tokens of a block behind its first stand for.

    Args:
        read: gives each split's documents, as ``read_document_splits`` does, and notes.

    Raises:
        InputError: the model can not be reached, or a split has too little text.
    """

    def make(assets: Path) -> tuple[DataInfo, Mapping[str, Split]]:
        rows, notes = read()
        documents = {name: [row[TEXT] for row in split] for name, split in rows.items()}
        details = text_data.make_tokenizer(config, documents["train"], assets)
        splits = {
            name: Split(_pack(texts, config, details, assets)) for name, texts in documents.items()
        }
        for name in ("train", "val"):
            if not len(splits[name]):
                raise InputError(f"data = {config.data!r}: the {name} split has no text to model")
        n_tokens = int(np.asarray(splits["train"].arrays["length"]).sum())
        summary = f"{n_tokens:,} tokens to train on, {details['vocabulary_size']:,} kinds of them"
        return DataInfo(notes=tuple(notes), details=details, summary=summary), splits

    return text_data.prepare_tokens(config, files, cache_folder, make)


def _pack(
    texts: Sequence[str], config: TextConfig, details: Mapping[str, Any], assets: Path
) -> dict[str, Array]:
    ids, n_bytes = tokenization.tokens_and_bytes(texts, assets, details["end_id"])
    size = config.max_tokens
    n_blocks = -(-len(ids) // size)
    if len(ids) % size == 1:  # a last token of its own has none to predict
        n_blocks -= 1
    input_ids = np.full((n_blocks, size), details["pad_id"], np.int32)
    length, total = np.zeros(n_blocks, np.int32), np.zeros(n_blocks, np.int32)
    for block in range(n_blocks):
        own = slice(block * size, min((block + 1) * size, len(ids)))
        length[block] = own.stop - own.start
        input_ids[block, : length[block]] = ids[own]
        total[block] = n_bytes[own][1:].sum()
    return {"input_ids": input_ids, "length": length, "n_bytes": total}


def encode(
    items: Sequence[bytes | str], config: TextConfig, info: DataInfo, assets: Path
) -> dict[str, Array]:
    """Beginnings of texts as raw arrays, without an end token.

    Raises:
        InputError: a text is empty, or bytes are not UTF-8.
    """
    texts = [text_data.decode_text(position, text) for position, text in enumerate(items)]
    rows = []
    for text in texts:
        ids, _ = tokenization.tokens_and_bytes([text], assets, None)
        end_id = info.details["end_id"]
        while len(ids) and ids[-1] == end_id:  # some tokenizers add it
            ids = ids[:-1]
        if not len(ids):  # the tokenizer makes nothing of this text
            ids = np.array([end_id], np.int32)
        rows.append(ids[-config.max_tokens + 1 :])  # room for one token more; the end matters most
    longest = max((len(ids) for ids in rows), default=0)
    input_ids = np.full((len(rows), longest), info.details["pad_id"], np.int32)
    for row, ids in zip(input_ids, rows, strict=True):
        row[: len(ids)] = ids
    return {"input_ids": input_ids, "length": np.array([len(ids) for ids in rows], np.int32)}
