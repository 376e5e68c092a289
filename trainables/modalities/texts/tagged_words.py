"""Words with tags as token ids: a tag goes to the first token of its word. Torch-free."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.conll import TAGS, WORDS
from trainables.data.prepare import Made
from trainables.data.splits import Splits
from trainables.modalities.texts import text_data, tokenization
from trainables.modalities.texts.config import TextConfig
from trainables.modalities.texts.text_data import decode_text
from trainables.prepared import Array, DataInfo, PreparedData, Ragged, Split
from trainables.targets.tags import IGNORED, entities, tag_names

# Names of users and topics are words, as are numbers with points in them; else punctuation stands
# alone, as in the data that people tag. The joiner without width is part of words in Persian.
_WORD = re.compile(r"[@#]?\w+(?:[-'’.\u200c\u200d]\w+)*|[^\w\s]")

Firsts = list[list[int | None]]  # the first token of each word of each text, if it has one
Spans = list[tuple[int, int]]  # of each word in its text: first character, and behind the last


def joined(words: Sequence[str]) -> tuple[str, Spans]:
    """Words as a text, and where each of them is in it."""
    ends = list(accumulate((len(word) + 1 for word in words), initial=0))
    return " ".join(words), [(end, end + len(word)) for end, word in zip(ends, words, strict=False)]


def word_spans(text: str) -> Spans:
    """Where the words of a text are."""
    # An accent of its own, or a vowel sign of Hindi, is part of its word; to ``re`` it is not.
    plain = "".join("a" if unicodedata.category(c)[0] == "M" else c for c in text)
    return [match.span() for match in _WORD.finditer(plain)]


def prepare_tags(
    config: TextConfig,
    files: Iterable[Path],
    cache_folder: Path,
    read: Callable[[], tuple[Splits, list[str]]],
) -> PreparedData:
    """Token ids of each split, and ``label`` int32 [n, longest]: a tag at each word's first token.

    Args:
        read: gives each split's sentences, as ``read_sentences`` does, and notes.

    Raises:
        InputError: the model can not be reached, or training lacks tags.
    """

    def make(assets: Path) -> Made:
        rows, notes = read()
        words = {name: [row[WORDS] for row in split] for name, split in rows.items()}
        tags = {name: [row[TAGS] for row in split] for name, split in rows.items()}
        index = {name: i for i, name in enumerate(tag_names(tags, config.data))}
        texts = {name: [joined(own) for own in sentences] for name, sentences in words.items()}
        details = text_data.make_tokenizer(config, [text for text, _ in texts["train"]], assets)
        splits, n_lost = {}, 0
        for name, pairs in texts.items():
            indices = [[index[tag] for tag in own] for own in tags[name]]
            plain, spans = [text for text, _ in pairs], [own for _, own in pairs]
            arrays, firsts = _labelled(plain, spans, indices, config, details, assets)
            splits[name] = Split(arrays)
            n_lost += sum(own.count(None) for own in firsts)
        lost = (
            f"{n_lost} words are left out: they lie behind max_tokens = {config.max_tokens}, or the"
            " model's tokenizer makes nothing of them"
        )
        all_notes = (*notes, lost) if n_lost else tuple(notes)
        types = {kind for own in tags["train"] for kind, _, _ in entities(own)}
        summary = f"{len(types)} types of entity, {len(index)} tags"
        return DataInfo(tuple(index), all_notes, details, summary=summary), splits

    return text_data.prepare_tokens(config, files, cache_folder, make)


def _labelled(
    texts: Sequence[str],
    spans: Sequence[Spans],
    tags: Sequence[Sequence[int]],
    config: TextConfig,
    details: Mapping[str, Any],
    assets: Path,
) -> tuple[dict[str, Array], Firsts]:
    """Token ids of ``texts``, ``label`` int32 [n, longest], and the first token of each word.

    Args:
        spans, tags: of each text's words; the words need not be all of it, the tags are indices.
    """
    inputs, firsts = tokenization.tokenise_words(
        texts, spans, assets, config.max_tokens, details["pad_id"]
    )
    label = np.full(inputs["input_ids"].shape, IGNORED, np.int32)
    for row, own_firsts, own_tags in zip(label, firsts, tags, strict=True):
        for position, tag in zip(own_firsts, own_tags, strict=True):
            if position is not None:
                row[position] = tag
    return {**inputs, "label": label}, firsts


def encode(
    items: Sequence[bytes | str], config: TextConfig, info: DataInfo, assets: Path
) -> dict[str, Array]:
    """Texts of a request as raw arrays: ``label`` marks the words, ``spans`` says where they are.

    Raises:
        InputError: a text is empty, or bytes are not UTF-8.
    """
    texts = [decode_text(position, item) for position, item in enumerate(items)]
    spans = [word_spans(text) for text in texts]
    tags = [[0] * len(own) for own in spans]
    arrays, firsts = _labelled(texts, spans, tags, config, info.details, assets)
    places = [
        [span for span, first in zip(own, found, strict=True) if first is not None]
        for own, found in zip(spans, firsts, strict=True)
    ]
    ragged = [np.array(own, np.int64).reshape(-1, 2) for own in places]
    return {**arrays, "spans": Ragged.of(ragged or [np.zeros((0, 2), np.int64)])}
