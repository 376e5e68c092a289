"""Words with tags as token ids: a tag goes to the first token of its word. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from trainables.modalities.texts import text_data, tokenization
from trainables.modalities.texts.config import TextConfig
from trainables.modalities.texts.text_data import decode_text
from trainables.prepared import Array, DataInfo, PreparedData, Ragged, Split
from trainables.targets.tags import IGNORED, entities, tag_names

# Names of users and topics are words, as are numbers with points in them; else punctuation stands
# alone, as in the data that people tag.
_WORD = re.compile(r"[@#]?\w+(?:[-'’.]\w+)*|[^\w\s]")

Tagged = Mapping[str, Sequence[Sequence[str]]]  # of each split, of each sentence: words, or tags
Spans = list[tuple[int, int]]  # of each word in its text: first character, and behind the last


def joined(words: Sequence[str]) -> tuple[str, Spans]:
    """Words as a text, and where each of them is in it."""
    ends = list(accumulate((len(word) + 1 for word in words), initial=0))
    return " ".join(words), [(end, end + len(word)) for end, word in zip(ends, words, strict=False)]


def word_spans(text: str) -> Spans:
    """Where the words of a text are."""
    return [match.span() for match in _WORD.finditer(text)]


def prepare_tags(
    config: TextConfig,
    files: Iterable[Path],
    cache_folder: Path,
    read: Callable[[], tuple[Tagged, Tagged, Sequence[str]]],
) -> PreparedData:
    """Token ids of each split, and ``label`` int32 [n, longest]: a tag at each word's first token.

    Args:
        read: gives the words of each split's sentences, their tags, and notes.

    Raises:
        InputError: the model can not be reached, or training lacks tags.
    """

    def make(assets: Path) -> tuple[DataInfo, dict[str, Split]]:
        text_data.fetch(config)
        words, tags, notes = read()
        index = {name: i for i, name in enumerate(tag_names(tags, config.data))}
        texts = {name: [joined(own) for own in sentences] for name, sentences in words.items()}
        details = text_data.make_tokenizer(config, [text for text, _ in texts["train"]], assets)
        splits, n_lost = {}, 0
        for name, pairs in texts.items():
            indices = [[index[tag] for tag in own] for own in tags[name]]
            plain, spans = [text for text, _ in pairs], [own for _, own in pairs]
            arrays, n_cut = tokenise(plain, spans, indices, assets, config, details["pad_id"])
            splits[name], n_lost = Split(arrays), n_lost + n_cut
        lost = f"{n_lost} words lie behind max_tokens = {config.max_tokens} and are left out"
        all_notes = (*notes, lost) if n_lost else tuple(notes)
        types = {kind for own in tags["train"] for kind, _, _ in entities(own)}
        summary = f"{len(types)} types of entity, {len(index)} tags"
        return DataInfo(tuple(index), all_notes, details, summary=summary), splits

    return text_data.prepare_tokens(config, files, cache_folder, make)


def tokenise(
    texts: Sequence[str],
    spans: Sequence[Spans],
    tags: Sequence[Sequence[int]],
    assets: Path,
    config: TextConfig,
    pad_id: int,
) -> tuple[dict[str, Array], int]:
    """Token ids of ``texts``, and ``label`` int32 [n, longest].

    Args:
        spans: of each text's words; they need not be all of it.
        tags: of each text's words, as indices.

    Returns:
        The arrays, and how many words lie behind the tokens that are kept.
    """
    inputs, firsts, n_cut = (
        *tokenization.tokenise_words(texts, spans, assets, config.max_tokens, pad_id),
        0,
    )
    label = np.full(inputs["input_ids"].shape, IGNORED, np.int32)
    for row, first, own in zip(label, firsts, tags, strict=True):
        for position, tag in zip(first, own, strict=True):
            if position is None:
                n_cut += 1
            else:
                row[position] = tag
    return {**inputs, "label": label}, n_cut


def encode(
    items: Sequence[Any], config: TextConfig, info: DataInfo, assets: Path
) -> dict[str, Array]:
    """Texts of a request as raw arrays: ``label`` marks the words, ``spans`` says where they are.

    Raises:
        InputError: a text is empty, or bytes are not UTF-8.
    """
    texts = [decode_text(position, item) for position, item in enumerate(items)]
    spans = [word_spans(text) for text in texts]
    tags = [[0] * len(own) for own in spans]
    arrays, _ = tokenise(texts, spans, tags, assets, config, info.details["pad_id"])
    kept = [int((row != IGNORED).sum()) for row in np.asarray(arrays["label"])]  # the first words
    places = [
        np.array(own[:n], np.int64).reshape(-1, 2) for own, n in zip(spans, kept, strict=True)
    ]
    return {**arrays, "spans": Ragged.of(places or [np.zeros((0, 2), np.int64)])}
