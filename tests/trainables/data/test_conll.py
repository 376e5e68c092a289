"""Sentences with tags: columns of CoNLL files and lists in JSONL and Parquet, damaged ones too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_texts import write

from trainables.data.conll import SENTENCES, TAGS, WORDS, check_sentences, iob2, read_sentences
from trainables.data.records import Reading
from trainables.data.splits import named_splits
from trainables.errors import InputError

LISTS = {WORDS: "tokens", TAGS: "tags"}
GOLD = ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-PER", "I-PER", "I-PER", "O", "O", "B-LOC"]
SCHEMES = {
    "IOB1": "I-PER I-PER B-PER O I-LOC I-PER I-PER I-PER O O I-LOC",
    "BIOES": "B-PER E-PER S-PER O S-LOC B-PER I-PER E-PER O O S-LOC",
    "BILOU": "B-PER L-PER U-PER O U-LOC B-PER I-PER L-PER O O U-LOC",
}


def read(folder: Path, content: str, name: str = "a.conll", **where: int) -> Reading:
    path = write(folder, name, content)
    check_sentences(path, LISTS)
    return read_sentences(path, LISTS, **where)


def column_text(tags: list[str]) -> str:
    return "".join(f"w{i} {tag}\n" for i, tag in enumerate(tags)) + "\n"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_becomes_iob2(tmp_path, scheme):
    reading = read(tmp_path, "w O\n\n" + column_text(SCHEMES[scheme].split()))
    assert [record[TAGS] for record in reading.records] == [["O"], GOLD]
    assert reading.notes == [
        f"a.conll: 1 sentence with tags in {scheme}, converted to IOB2 (line 3)"
    ]


def test_iob2_stays_as_it_is(tmp_path):
    reading = read(tmp_path, column_text(GOLD) * 3)
    assert [record[TAGS] for record in reading.records] == [GOLD] * 3
    assert [record.line for record in reading.records] == [1, 13, 25]
    assert reading.records[0][WORDS] == [f"w{i}" for i in range(11)]
    assert reading.notes == []


def spans(tags: list[str]) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((tag[2:], i, i))
        elif tag.startswith("I-"):
            kind, first, last = found.pop()
            assert (kind, last) == (tag[2:], i - 1)
            found.append((kind, first, i))
    return found


def written(runs: list[tuple[str, int]], scheme: str) -> list[str]:
    """Runs of a type and a length as tags; a run of no type is outside."""
    tags = []
    for i, (kind, length) in enumerate(runs):
        first, last, alone = {"BIOES": "BES", "BILOU": "BLU"}.get(scheme, "BIB")
        if scheme == "IOB1" and (i == 0 or runs[i - 1][0] != kind):
            first = alone = "I"
        letters = alone if length == 1 else first + "I" * (length - 2) + last
        tags += [f"{letter}-{kind}" if kind else "O" for letter in letters]
    return tags


@given(
    st.lists(st.tuples(st.sampled_from(["", "PER", "LOC"]), st.integers(1, 4)), min_size=1),
    st.sampled_from(["IOB1", "IOB2", "BIOES", "BILOU"]),
)
def test_entities_survive_any_scheme(runs, scheme):
    tags = iob2(written(runs, scheme))
    starts = [sum(length for _, length in runs[:i]) for i in range(len(runs))]
    assert spans(tags) == [
        (kind, start, start + length - 1)
        for start, (kind, length) in zip(starts, runs, strict=True)
        if kind
    ]
    assert tags == written(runs, "IOB2") == iob2(tags)


def test_columns_comments_and_documents(tmp_path):
    content = (
        "-DOCSTART- -X- O O\n\n# text = EU rejects\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n"
        "# NN I-NP O\nfirst JJ I-NP O\n\r\n"
    )
    reading = read(tmp_path, content)
    assert [(record.line, record[WORDS]) for record in reading.records] == [
        (3, ["EU", "rejects"]),
        (7, ["#", "first"]),
    ]
    assert [record[TAGS] for record in reading.records] == [["B-ORG", "O"], ["O", "O"]]
    parts = read(tmp_path, content, tag_position=1)
    assert [record[TAGS] for record in parts.records] == [["NNP", "VBZ"], ["NN", "JJ"]]
    assert parts.notes == [
        "a.conll: its tags have no B- or I-, each is taken as a class of its own"
    ]


def test_words_may_hold_spaces_where_tabs_separate(tmp_path):
    reading = read(tmp_path, "New York\tB-LOC\r\n\u00a0\tO\r\n\t\r\nof\tO\r\n", "a.tsv")
    assert [record[WORDS] for record in reading.records] == [["New York", "\u00a0"], ["of"]]
    assert [record[TAGS] for record in reading.records] == [["B-LOC", "O"], ["O"]]


def test_damaged_sentences_are_dropped_and_counted(tmp_path):
    content = "a O\nb B-X\n\nc O\nd\n\ne O\nf B-X more\n\ng X\n\nh O\n\ni\n"
    reading = read(tmp_path, content)
    assert [record[WORDS] for record in reading.records] == [["a", "b"], ["h"]]
    assert reading.notes == [
        "a.conll: 3 sentences dropped, a line of it has not the 2 columns of others"
        " (lines 4, 7, 14)",
        "a.conll: 1 sentence dropped, 'X' is no tag like B-…, I-… or O (line 10)",
    ]


def test_lists_are_read_too(tmp_path):
    rows = [
        {"tokens": ["EU", "is"], "tags": ["S-ORG", "O"]},
        {"tokens": ["one"], "tags": []},
        {"tokens": "no list", "tags": ["O"]},
    ]
    reading = read(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl")
    assert [dict(record.values) for record in reading.records] == [
        {WORDS: ["EU", "is"], TAGS: ["B-ORG", "O"]}
    ]
    assert reading.notes == [
        "a.jsonl: 1 row dropped, wrong words: 'no list' is not a list (line 3)",
        "a.jsonl: 1 row dropped, not as many tags as words (line 2)",
        "a.jsonl: 1 sentence with tags in BIOES, converted to IOB2 (line 1)",
    ]
    with pytest.raises(InputError, match=r"tags_column = 'ner': a.* has no such column"):
        check_sentences(tmp_path / "a.jsonl", {WORDS: "tokens", TAGS: "ner"})


@pytest.mark.parametrize("content", ["", "\n\n", "one\nword\n\na\nline\n"])
def test_a_file_without_tags_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"data: a.conll has no word with a tag; each line must"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    "names",
    [
        ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("train.txt", "valid.jsonl", "test.iob2"),
    ],
)
def test_known_names_of_files_are_splits(tmp_path, names):
    files = [write(tmp_path, name, "") for name in (*names, "README.md")]
    found = named_splits(None, files, SENTENCES)
    assert [found[split].name for split in ("train", "val", "test")] == list(names)
