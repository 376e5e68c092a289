"""Documents packed into blocks of tokens, for models of language. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.plain_texts import TEXT
from trainables.data.prepare import Made
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

    def make(assets: Path) -> Made:
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
    starts = range(0, n_blocks * size, size)
    total = [n_bytes[start + 1 : start + size].sum() for start in starts]
    parts = [ids[start : start + size] for start in starts]
    blocks = tokenization.padded(parts, details["pad_id"], at_least=size)
    return {**blocks, "n_bytes": np.array(total, np.int32)}


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
        ids = tokenization.tokens_and_bytes([text], assets, None)[0].tolist()
        end_id = info.details["end_id"]
        while ids and ids[-1] == end_id:  # some tokenizers add it
            ids.pop()
        ids = ids or [end_id]  # the tokenizer may make nothing of this text
        rows.append(ids[-config.max_tokens + 1 :])  # room for one token more; the end matters most
    return dict(tokenization.padded(rows, info.details["pad_id"]))
