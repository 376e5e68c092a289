"""Records of CSV, TSV, JSONL and Parquet files, damaged ones too."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_texts import write

from trainables.data import records
from trainables.data.records import Reading
from trainables.data.tables import check_columns, read_records
from trainables.errors import InputError

COLUMNS = {"text_column": "text", "label_column": "label"}


def read(tmp_path: Path, name: str, content: str | bytes) -> Reading:
    return read_records(write(tmp_path, name, content), COLUMNS)


def texts_of(reading: Reading) -> list[str]:
    return [record["text_column"] for record in reading.records]


# Any text a person could have typed or pasted: no control characters but tab and line ends.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\t\n\r",;|'))
WORDS = TEXTS.filter(lambda text: text.strip())


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(WORDS, min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    ends=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_tables_round_trip(tmp_path_factory, texts, delimiter, ends, encoding):
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter=delimiter, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "label", "text"], *([i, "a", text] for i, text in enumerate(texts))])
    suffix = ".tsv" if delimiter == "\t" else ".csv"
    folder = tmp_path_factory.mktemp("table")
    path = write(folder, f"table{suffix}", table.getvalue().encode(encoding))
    check_columns(path, COLUMNS)
    assert texts_of(read_records(path, COLUMNS)) == texts


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(WORDS, min_size=1, max_size=8),
    escape=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_json_lines_round_trip(tmp_path_factory, texts, escape, encoding):
    lines = (json.dumps({"label": 1, "text": text}, ensure_ascii=escape) for text in texts)
    folder = tmp_path_factory.mktemp("json")
    path = write(folder, "rows.jsonl", "\n".join(lines).encode(encoding))
    check_columns(path, COLUMNS)
    assert [
        (row["text_column"], row["label_column"]) for row in read_records(path, COLUMNS).records
    ] == [(text, "1") for text in texts]


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300) | TEXTS.map(str.encode),
    name=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, content, name):
    header = b"" if name == "jsonl" else b"text\tlabel\n" if name == "tsv" else b"text,label\n"
    path = write(tmp_path_factory.mktemp("bytes"), f"a.{name}", header + content)
    try:
        read_records(path, COLUMNS)
        refusal = path.name
    except InputError as error:
        refusal = str(error)
    assert path.name in refusal


def test_broken_and_empty_rows_are_dropped_and_counted(tmp_path):
    content = (
        'text,label\nno label here\n"unclosed,pos\n,pos\nhello,\n\nkept one,pos\na,pos,extra\n'
        '"unclosed at the end,pos\nkept two,neg\n'
    )
    reading = read(tmp_path, "a.csv", content)
    assert [(row.line, row["text_column"]) for row in reading.records] == [
        (7, "kept one"),
        (10, "kept two"),
    ]
    assert reading.notes == [
        "a.csv: 4 rows dropped, wrong number of columns or a quote that is not closed"
        " (lines 2, 3, 8, 9)",
        "a.csv: 2 rows dropped, no text or no label (lines 4, 5)",
    ]


def test_stray_quotes_within_a_line_are_text(tmp_path):
    reading = read(tmp_path, "a.csv", 'text,label\nHe said "hi" to me,a\n"one ""two""\nthree",b\n')
    assert texts_of(reading) == [
        'He said "hi" to me',
        'one "two"\nthree',
    ]


def test_quotes_that_do_not_pair_in_tsv_are_characters(tmp_path):
    reading = read(tmp_path, "a.tsv", 'label\ttext\na\t"Open quote\nb\tsaid "so" twice\n')
    assert texts_of(reading) == ['"Open quote', 'said "so" twice']
    assert reading.notes == ["a.tsv: quotes are not paired, read as ordinary characters"]


def test_text_spilled_into_unnamed_columns_is_joined(tmp_path):
    columns = {"text_column": "v2", "label_column": "v1"}
    path = write(tmp_path, "spam.csv", "v1,v2,,,\nham,hello,,,\nspam,one, two,three,\nham,short\n")
    check_columns(path, columns)
    reading = read_records(path, columns)
    assert texts_of(reading) == ["hello", "one, two,three", "short"]
    assert reading.notes == [
        "spam.csv: 1 row had more text in unnamed columns, joined to the text (line 3)"
    ]


def test_long_fields_are_read_and_the_csv_limit_stays(tmp_path):
    before = csv.field_size_limit()
    reading = read(tmp_path, "a.csv", f'text,label\n"{"x " * 100_000}",a\n')
    assert len(reading.records[0]["text_column"]) == 200_000
    assert csv.field_size_limit() == before


def test_broken_json_lines_are_dropped_and_counted(tmp_path):
    lines = [
        '{"text": "kept", "label": true}',
        '{"text": "cut',
        "[1]",
        '{"text": ["a"], "label": 2}',
        "[" * 100_000,
        '{"text": null, "label": 1}',
        '{"label": 2}',
        '{"text": "half \\ud83d emoji", "label": 2.5}',
    ]
    reading = read(tmp_path, "a.jsonl", "\n".join(lines))
    assert [(row.line, row["text_column"], row["label_column"]) for row in reading.records] == [
        (1, "kept", "true"),
        (8, "half \ufffd emoji", "2.5"),
    ]
    assert reading.notes == [
        "a.jsonl: 3 rows dropped, not a JSON object (lines 2, 3, 5)",
        "a.jsonl: 2 rows dropped, no text or no label (lines 6, 7)",
        "a.jsonl: 1 row dropped, wrong text: a list is not a text (line 4)",
    ]


def write_parquet(folder: Path, name: str, columns: dict[str, list]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
    return folder / name


def test_parquet_holds_values_of_any_type(tmp_path):
    columns = {
        "text": ["kept", None, " ", "half"],
        "label": [["a", "b"], ["c"], ["d"], []],
        "score": [1.5, 2.0, 3.0, float("nan")],
        "day": [date(2024, 2, 29)] * 4,
    }
    path = write_parquet(tmp_path, "a.parquet", columns)
    named = {"text_column": "text", "label_column": "label", "day_column": "day"}
    check_columns(path, named)
    reading = read_records(path, named, {"label_column": records.texts})
    assert [dict(record.values) for record in reading.records] == [
        {"text_column": "kept", "label_column": ["a", "b"], "day_column": "2024-02-29"},
        {"text_column": "half", "label_column": [], "day_column": "2024-02-29"},
    ]
    assert reading.notes == [
        "a.parquet: 2 rows dropped, no text or no label or no day (lines 2, 3)"
    ]
    scores = read_records(path, {"target_column": "score"}, {"target_column": records.number})
    assert [record["target_column"] for record in scores.records] == [1.5, 2.0, 3.0]


def test_parquet_that_can_not_be_read(tmp_path):
    path = write_parquet(tmp_path, "a.parquet", {"text": ["x"] * 9000, "labels": list(range(9000))})
    with pytest.raises(
        InputError, match=r"'label': a\.parquet has no such column; it has: labels, "
    ):
        check_columns(path, COLUMNS)
    content = path.read_bytes()
    for damaged in (b"", content[:-9], b"PAR1" + bytes(200) + b"PAR1"):
        path.write_bytes(damaged)
        for use in (check_columns, read_records):
            with pytest.raises(InputError, match=r"data: .* can not be read as Parquet: "):
                use(path, {"text_column": "text"})
    path.write_bytes(content[:20] + bytes(40) + content[60:])
    with pytest.raises(InputError, match="can not be read as Parquet"):
        read_records(path, {"text_column": "text"})


def test_a_value_that_its_kind_refuses_costs_the_row(tmp_path):
    path = write(tmp_path, "a.csv", 'text,price\na, 1e3\nb,"1,5"\nc,nan\nd,-2\ne,\nf,True\n')
    columns = {"text_column": "text", "target_column": "price"}
    reading = read_records(path, columns, {"target_column": records.number})
    assert [record["target_column"] for record in reading.records] == [1000, -2]
    assert reading.notes == [
        "a.csv: 1 row dropped, no text or no target (line 6)",
        "a.csv: 3 rows dropped, wrong target: '1,5' is not a number (lines 3, 4, 7)",
    ]
    lines = ['{"tokens": ["a", 1], "n": true}', '{"tokens": "a b", "n": 2}', '{"tokens": [["c"]]}']
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    reading = read_records(path, {"tokens_column": "tokens"}, {"tokens_column": records.texts})
    assert [record["tokens_column"] for record in reading.records] == [["a", "1"]]
    assert reading.notes == [
        "a.jsonl: 2 rows dropped, wrong tokens: 'a b' is not a list (lines 2, 3)"
    ]


def test_a_column_of_files_is_relative_to_its_table(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        write(tmp_path / "photos", name, b"")
    rows = f"photos/a.png,1\nphotos/gone.png,2\n{tmp_path / 'photos' / 'b.png'},3\nphotos,4\n"
    path = write(tmp_path, "a.csv", "image,weight\n" + rows)
    columns = {"image_column": "image", "target_column": "weight"}
    kinds = {"image_column": records.file_beside(path), "target_column": records.number}
    reading = read_records(path, columns, kinds)
    found = [(each["image_column"].name, each["target_column"]) for each in reading.records]
    assert found == [("a.png", 1), ("b.png", 3)]
    dropped = "2 rows dropped, wrong image: 'photos/gone.png' is no file (lines 3, 5)"
    assert reading.notes == [f"a.csv: {dropped}"]
