"""Documents to model, from whole files and from tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from labelled_texts import write
from pydantic import BaseModel

from trainables.data.plain_texts import (
    TEXT,
    check_documents,
    document_files,
    read_document_splits,
)
from trainables.errors import InputError

LINES = "".join(f"line {i} of the play\n" for i in range(1000))


class Config(BaseModel):
    """What the reader wants to know of a configuration."""

    data: str
    text_column: str = "text"
    split_column: str | None = None
    split_seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.1


def read(data: Path, **values: object) -> tuple[dict[str, list[str]], list[str]]:
    config = Config(data=str(data), **values)
    files = document_files(config)
    for path in files.values():
        check_documents(path, {"text_column": config.text_column})
    splits, notes = read_document_splits(config, files)
    return {split: [each[TEXT] for each in records] for split, records in splits.items()}, notes


def test_a_single_text_is_cut_by_place_at_ends_of_lines(tmp_path):
    splits, notes = read(write(tmp_path, "input.txt", LINES))
    assert list(splits) == ["train", "val", "test"]
    assert "".join(splits["train"] + splits["val"] + splits["test"]) == LINES
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        (text,) = splits[split]
        assert len(text) / len(LINES) == pytest.approx(share, abs=0.002)
        assert text.startswith("line ")
        assert text.endswith(" play\n")
    assert notes == []
    splits, _ = read(tmp_path / "input.txt", test_fraction=0)
    assert "".join(splits["train"] + splits["val"]) == LINES
    assert splits["test"] == []
    splits, _ = read(write(tmp_path, "input.txt", "first\n" + "x" * 100_000))
    assert len(splits["train"][0]) == pytest.approx(80_000, rel=0.001)


def test_files_of_a_folder_are_documents_or_splits(tmp_path):
    for i, name in enumerate(["play.txt", "night_train.txt", "a_test.txt"]):
        write(tmp_path, name, f"play {i} begins\n{LINES}")
    write(tmp_path, "empty.txt", "\n")
    write(tmp_path, "cover.png", b"\x89PNG")
    splits, notes = read(tmp_path)
    assert [len(texts) for texts in splits.values()] == [3, 3, 3]
    assert all(text.startswith("play ") for text in splits["train"])
    assert notes == [f"{tmp_path.name}: empty.txt is empty"]
    write(tmp_path, "train.txt", LINES)
    write(tmp_path, "test.md", "the end\n")
    splits, _ = read(tmp_path)
    assert splits["test"] == ["the end\n"]
    assert "".join(splits["train"] + splits["val"]) == LINES


def test_many_documents_are_divided_whole(tmp_path):
    rows = "\n".join(json.dumps({"text": f"document {i}\n\nend"}) for i in range(200))
    splits, _ = read(write(tmp_path, "a.jsonl", rows))
    assert {split: len(texts) for split, texts in splits.items()} == {
        "train": 160,
        "val": 20,
        "test": 20,
    }
    assert all(text.endswith("end") for texts in splits.values() for text in texts)
    with pytest.raises(InputError, match=r"text_column = 'body': .* has no such column"):
        read(tmp_path / "a.jsonl", text_column="body")


def test_a_split_column_is_respected(tmp_path):
    table = "text,fold\none,train\ntwo,dev\nthree,test\n"
    splits, _ = read(write(tmp_path, "a.csv", table), split_column="fold")
    assert splits == {"train": ["one"], "val": ["two"], "test": ["three"]}


def test_encodings_are_recognised_and_other_files_refused(tmp_path):
    text = "".join(f"L’élève était là, être ou ne pas être {i}\n" for i in range(50))
    splits, notes = read(write(tmp_path, "a.txt", text.encode("cp1252")))
    assert "".join(splits["train"]) == text[: len("".join(splits["train"]))]
    assert notes == ["a.txt: not UTF-8, read as cp1252"]
    with pytest.raises(InputError, match=r"unknown kind of file '\.docx'; valid: \.txt, "):
        read(write(tmp_path, "a.docx", b"PK\x03\x04"))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"needs a train file, such as train\.txt .* has nothing"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match="no usable row for train"):
        read(write(tmp_path, "a.txt", " \n"))
