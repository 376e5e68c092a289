"""Entities as seqeval counts them, and words that pretrained tokenizers cut into pieces."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities
from small_tokenizers import TOKENIZERS, wordpiece
from tokenizers import Tokenizer

from trainables.modalities.texts.config import TextConfig
from trainables.modalities.texts.tagged_words import encode, joined, word_spans
from trainables.modalities.texts.task import texts_or_lines
from trainables.modalities.texts.tokenization import tokenise_words
from trainables.prepared import DataInfo, Split, gather
from trainables.targets.tags import IGNORED, TagMeter, decode, entities, loss, n_words
from trainables.task import Trained

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-x-y", "I-x-y")
# Any order of tags, as a model predicts them: an I- may follow anything.
SENTENCE = st.lists(st.sampled_from(TAGS), min_size=1, max_size=12)
PAIR = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.sampled_from(TAGS), min_size=n, max_size=n) for _ in range(2))
    )
)


def logits_of(tags: list[list[str]], n_positions: int) -> torch.Tensor:
    """Outputs of a model that is sure of ``tags`` [n, positions, tags]."""
    found = torch.zeros(len(tags), n_positions, len(TAGS))
    for row, own in enumerate(tags):
        for position, tag in enumerate(own):
            found[row, position, TAGS.index(tag)] = 1.0
    return found


def labels_of(tags: list[list[str]], n_positions: int) -> torch.Tensor:
    found = torch.full((len(tags), n_positions), IGNORED, dtype=torch.int32)
    for row, own in enumerate(tags):
        found[row, : len(own)] = torch.tensor([TAGS.index(tag) for tag in own])
    return found


def meter_of(pairs: list[tuple[list[str], list[str]]]) -> TagMeter:
    meter = TagMeter(DataInfo(classes=TAGS))
    true, predicted = [each[0] for each in pairs], [each[1] for each in pairs]
    n_positions = max(map(len, true), default=1) + 2  # the rest is padding
    meter.update(logits_of(predicted, n_positions), {"label": labels_of(true, n_positions)})
    return meter


@given(SENTENCE)
def test_entities_are_those_of_seqeval(tags):
    assert entities(tags) == [tuple(found) for found in get_entities(tags)]


@settings(max_examples=50, deadline=None)  # seqeval's report takes a while
@given(st.lists(PAIR, min_size=1, max_size=5), st.integers(0, 5))
def test_scores_are_those_of_seqeval(pairs, divide):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of types that are never predicted
        report = classification_report(
            [true for true, _ in pairs],
            [predicted for _, predicted in pairs],
            output_dict=True,
            zero_division=0,
        )
    meter = meter_of(pairs)
    scores = meter.compute(0.0)
    for name in ("precision", "recall"):
        assert scores[name] == pytest.approx(report["micro avg"][name])
    assert scores["f1"] == pytest.approx(report["micro avg"]["f1-score"])
    types = {kind: found for kind, found in report.items() if not kind.endswith(" avg")}
    by_type = meter.by_type()
    assert by_type.keys() == types.keys()
    for kind, found in types.items():
        assert scores[f"f1_{kind}"] == pytest.approx(found["f1-score"])
        assert by_type[kind]["precision"] == pytest.approx(found["precision"])
        assert by_type[kind]["recall"] == pytest.approx(found["recall"])
        assert by_type[kind]["support"] == found["support"]
    # two workers, of which one may have had nothing
    states = [meter_of(pairs[:divide]).state(), meter_of(pairs[divide:]).state()]
    merged = TagMeter(DataInfo(classes=TAGS))
    merged.merge(states)
    assert merged.compute(0.0) == scores


def test_parts_of_speech_count_one_by_one():
    tags = ["NN", "NN", "VB"]
    assert entities(tags) == [("NN", 0, 0), ("NN", 1, 1), ("VB", 2, 2)]


def test_a_type_with_strange_letters_still_names_a_metric():
    info = DataInfo(classes=("O", "B-R&D/é", "I-R&D/é"))
    meter = TagMeter(info)
    meter.update(torch.eye(3)[None, 1:2], {"label": torch.ones(1, 1, dtype=torch.int32)})
    names = [name for name in meter.compute(0.0) if name.startswith("f1_")]
    assert names == ["f1_R_D__"]  # MLflow takes letters, digits, "_", "-", "." and few others


def test_the_loss_is_summed_over_words():
    true = [["B-PER", "O"], ["B-LOC"]]
    label = labels_of(true, 6)
    logits = torch.randn(2, 4, len(TAGS), generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(2)
    expected = -(log_p[0, 0, 1] + log_p[0, 1, 0] + log_p[1, 0, 3])
    assert loss(logits, {"label": label}, None) == pytest.approx(float(expected), rel=1e-6)
    assert n_words(Split({"label": label.numpy()})).tolist() == [2, 1]


@pytest.fixture(scope="module", params=TOKENIZERS)
def assets(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    TOKENIZERS[request.param]().save(str(folder / "tokenizer.json"))
    return folder


WORDS = [
    ["the", "fox", "in", "New", "York"],
    ["unbelievably", "tokenization", "."],
    ["Zürich", "naïve", "東京", "😀", "e-mail", "..."],
    ["New York", "it's", "a\u00a0b", "ﬁ"],  # of a file with tabs, a word may hold a space
    ["x"],
]


def test_each_word_has_a_first_token_of_its_own(assets):
    texts, spans = zip(*(joined(words) for words in WORDS), strict=True)
    inputs, firsts = tokenise_words(texts, spans, assets, 256, 0)
    tokenizer = Tokenizer.from_file(str(assets / "tokenizer.json"))
    for number, (text, own) in enumerate(zip(texts, spans, strict=True)):
        encoding = tokenizer.encode(text)
        ids = inputs["input_ids"][number]
        assert ids[: inputs["length"][number]].tolist() == encoding.ids
        assert None not in firsts[number]
        assert len(set(firsts[number])) == len(own)
        for token, (start, end) in zip(firsts[number], own, strict=True):
            first, last = encoding.offsets[token]
            assert first < end
            assert last > start
            assert encoding.special_tokens_mask[token] == 0
            # no earlier token has any of the word's characters
            before = [
                offsets
                for offsets, special in zip(
                    encoding.offsets[:token], encoding.special_tokens_mask, strict=False
                )
                if not special
            ]
            assert all(behind <= start for _, behind in before)


def test_words_behind_the_cut_have_no_token(assets):
    text, spans = joined(["fox"] * 50)
    inputs, (firsts,) = tokenise_words([text], [spans], assets, 12, 0)
    kept = [token for token in firsts if token is not None]
    assert 0 < len(kept) < 50
    assert firsts == kept + [None] * (50 - len(kept))
    assert inputs["input_ids"].shape == (1, 12)


def predicted(items: list[bytes | str], assets: Path) -> list[list[dict[str, Any]]]:
    config = TextConfig(data="", max_tokens=256)
    info = DataInfo(classes=("O", "B-thing"), details={"pad_id": 0})
    arrays = encode(items, config, info, assets)
    batch = gather(arrays, np.arange(len(items)), torch.device("cpu"))
    logits = torch.zeros(*arrays["label"].shape, 2)
    logits[..., 1] = 2.0
    trained = Trained(torch.nn.Identity(), config, info, assets)
    return [row["entities"] for row in decode(logits, batch, items, trained)]


@settings(max_examples=40, deadline=None)  # the first one loads the tokenizer
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
        min_size=1,
        max_size=3,
    )
)
def test_entities_are_where_they_say(assets_of_bert, texts):
    texts = [f"a {text}" for text in texts]
    for text, found in zip(texts, predicted(list(texts), assets_of_bert), strict=True):
        assert found
        assert {(each["start"], each["end"]) for each in found} <= set(word_spans(text))
        assert all(each["text"] == text[each["start"] : each["end"]] for each in found)


@pytest.fixture(scope="module")
def assets_of_bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    wordpiece().save(str(folder / "tokenizer.json"))
    return folder


def test_a_word_without_a_token_shifts_no_other(assets):
    # BERT drops a zero-width space, others may join the points of "..." to one token.
    text = "the \u200b fox ... New York"
    (found,) = predicted([text], assets)
    places = [(each["start"], each["end"]) for each in found]
    assert places == sorted(set(places))
    assert set(places) <= set(word_spans(text))
    for word in ("the", "fox", "New", "York"):
        start = text.index(word)
        assert (start, start + len(word)) in places
        assert word in [each["text"] for each in found]


def test_bytes_with_a_byte_order_mark_are_read_as_the_text(assets):
    text = "Zürich  naïve\tfox"
    from_text, from_bytes = predicted([text, b"\xef\xbb\xbf" + text.encode()], assets)
    assert from_text == from_bytes
    assert [each["text"] for each in from_text] == ["Zürich", "naïve", "fox"]
    assert [each["probability"] for each in from_text] == pytest.approx([0.880797] * 3)


def test_a_file_of_texts_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "lines.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo")
    assert texts_or_lines([str(tmp_path / "lines.txt"), "three"]) == [
        (text, text) for text in ("one", "two", "three")
    ]


def test_decomposed_letters_stay_in_their_word():
    assert word_spans("Zu\u0308rich is") == [(0, 7), (8, 10)]
    assert word_spans("नमस्ते दुनिया") == [(0, 6), (7, 13)]
    assert word_spans("می‌خواهم") == [(0, 8)]
