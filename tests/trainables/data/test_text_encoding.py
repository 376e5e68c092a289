"""Text files in whatever encoding people have."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled_texts import PLAIN, write

from trainables.data.records import Reading
from trainables.data.tables import read_records
from trainables.data.text_encoding import decode
from trainables.errors import InputError

COLUMNS = {"text_column": "text", "label_column": "label"}


def read(tmp_path: Path, name: str, content: str | bytes) -> Reading:
    return read_records(write(tmp_path, name, content), COLUMNS)


@pytest.mark.parametrize(
    ("encoding", "text", "found"),
    [
        ("cp1252", "Müller aß für £5 ein Menü", "cp1252"),
        ("cp1252", "L’élève était là, être ou ne pas être, voilà la question", "cp1252"),
        ("cp1251", "это очень хороший фильм, спасибо вам", "cp1251"),
        ("cp1250", "Zażółć gęślą jaźń; to jest bardzo dobry film", "cp1250"),
        ("shift_jis", "こんにちは世界、今日はいい天気ですね", "cp932"),
        ("utf-16-le", "plain text of no great length", "utf-16-le"),
        ("utf-16-be", "plain text of no great length", "utf-16-be"),
    ],
)
def test_encodings_are_recognised(tmp_path, encoding, text, found):
    content = f"text,label\n{text.replace(',', '')},a\n" + f'"{text}",b\n' * 10
    reading = read(tmp_path, "a.csv", content.encode(encoding))
    assert reading.records[1]["text_column"] == text
    assert reading.notes == [f"a.csv: not UTF-8, read as {found}"]


def test_a_few_foreign_lines_do_not_spoil_a_utf8_file(tmp_path):
    content = PLAIN.encode() + "größer,a\nмир,a\n".encode() + "café,b\n".encode("cp1252")
    reading = read(tmp_path, "a.csv", content)
    assert [row["text_column"] for row in reading.records[-3:]] == ["größer", "мир", "café"]
    assert reading.notes == ["a.csv: not UTF-8, read as utf-8, some lines cp1252"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "is a zip or Excel file"),
        (bytes(range(256)) * 40, "is not text"),
        (PLAIN.encode("utf-16") + b"\0", "can not be read as utf-16"),
    ],
)
def test_what_is_not_text_is_refused(content, message):
    with pytest.raises(InputError, match=f"a.csv {message}"):
        decode(content, "a.csv")
