"""Reading labelled texts, splitting them and turning them into token ids."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.config import check_config
from trainables.data.text_encoding import decode
from trainables.data.text_files import Columns, Reading, Row, check_columns, read_rows
from trainables.data.text_splits import read_splits
from trainables.errors import InputError
from trainables.modalities.texts import text_data
from trainables.prepared import PreparedData
from trainables.tasks import text_classification
from trainables.tasks.text_classification import TextClassificationConfig

COLUMNS = Columns("text", "label")
BODY = "".join(f"number {i} is good,pos\nthing {i} is bad,neg\n" for i in range(20))
PLAIN = "text,label\n" + BODY


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def config(data: Path, **values: object) -> TextClassificationConfig:
    return check_config(
        {"data": str(data), "model": "scratch:bert-tiny", **values}, TextClassificationConfig
    )


def splits_of(data: Path, **values: object) -> tuple[dict[str, list[Row]], list[str]]:
    chosen = config(data, **values)
    return read_splits(chosen, text_data.data_files(chosen))


def read(tmp_path: Path, name: str, content: str | bytes) -> Reading:
    return read_rows(write(tmp_path, name, content), COLUMNS)


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
    assert [row.text for row in read_rows(path, COLUMNS).rows] == texts


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
    assert [(row.text, row.label) for row in read_rows(path, COLUMNS).rows] == [
        (text, "1") for text in texts
    ]


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300) | TEXTS.map(str.encode),
    name=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, content, name):
    header = b"" if name == "jsonl" else b"text\tlabel\n" if name == "tsv" else b"text,label\n"
    path = write(tmp_path_factory.mktemp("bytes"), f"a.{name}", header + content)
    try:
        read_rows(path, COLUMNS)
        refusal = path.name
    except InputError as error:
        refusal = str(error)
    assert path.name in refusal


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
    assert reading.rows[1].text == text
    assert reading.notes == [f"a.csv: not UTF-8, read as {found}"]


def test_a_few_foreign_lines_do_not_spoil_a_utf8_file(tmp_path):
    content = PLAIN.encode() + "größer,a\nмир,a\n".encode() + "café,b\n".encode("cp1252")
    reading = read(tmp_path, "a.csv", content)
    assert [row.text for row in reading.rows[-3:]] == ["größer", "мир", "café"]
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


def test_broken_and_empty_rows_are_dropped_and_counted(tmp_path):
    content = (
        'text,label\nno label here\n"unclosed,pos\n,pos\nhello,\n\nkept one,pos\na,pos,extra\n'
        '"unclosed at the end,pos\nkept two,neg\n'
    )
    reading = read(tmp_path, "a.csv", content)
    assert [(row.line, row.text) for row in reading.rows] == [(7, "kept one"), (10, "kept two")]
    assert reading.notes == [
        "a.csv: 4 rows dropped, wrong number of columns or a quote that is not closed"
        " (lines 2, 3, 8, 9)",
        "a.csv: 2 rows dropped, no text or no label (lines 4, 5)",
    ]


def test_stray_quotes_within_a_line_are_text(tmp_path):
    reading = read(tmp_path, "a.csv", 'text,label\nHe said "hi" to me,a\n"one ""two""\nthree",b\n')
    assert [row.text for row in reading.rows] == ['He said "hi" to me', 'one "two"\nthree']


def test_quotes_that_do_not_pair_in_tsv_are_characters(tmp_path):
    reading = read(tmp_path, "a.tsv", 'label\ttext\na\t"Open quote\nb\tsaid "so" twice\n')
    assert [row.text for row in reading.rows] == ['"Open quote', 'said "so" twice']
    assert reading.notes == ["a.tsv: quotes are not paired, read as ordinary characters"]


def test_text_spilled_into_unnamed_columns_is_joined(tmp_path):
    columns = Columns("v2", "v1")
    path = write(tmp_path, "spam.csv", "v1,v2,,,\nham,hello,,,\nspam,one, two,three,\nham,short\n")
    check_columns(path, columns)
    reading = read_rows(path, columns)
    assert [row.text for row in reading.rows] == ["hello", "one, two,three", "short"]
    assert reading.notes == [
        "spam.csv: 1 row had more text in unnamed columns, joined to the text (line 3)"
    ]


def test_long_fields_are_read_and_the_csv_limit_stays(tmp_path):
    before = csv.field_size_limit()
    reading = read(tmp_path, "a.csv", f'text,label\n"{"x " * 100_000}",a\n')
    assert len(reading.rows[0].text) == 200_000
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
    assert [(row.line, row.text, row.label) for row in reading.rows] == [
        (1, "kept", "true"),
        (8, "half \ufffd emoji", "2.5"),
    ]
    assert reading.notes == [
        "a.jsonl: 4 rows dropped, not a JSON object with a text and a label (lines 2, 3, 4, 5)",
        "a.jsonl: 2 rows dropped, no text or no label (lines 6, 7)",
    ]


def test_a_file_is_cut_in_three(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN)
    splits, notes = splits_of(path)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 28,
        "val": 6,
        "test": 6,
    }
    assert notes == []
    assert splits_of(path)[0] == splits
    assert splits_of(path, split_seed=1)[0] != splits


def test_duplicates_are_dropped_and_conflicts_counted(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN + "same,pos\nsame,pos\nsame,neg\n")
    splits, notes = splits_of(path)
    assert sum(map(len, splits.values())) == 42
    assert notes == [
        "a.csv: 1 row dropped, same text and label as an earlier row (line 43)",
        "a.csv: 2 rows kept although their text occurs with different labels (lines 42, 44)",
    ]


def test_a_split_column_is_respected(tmp_path):
    names = ["TRAIN", "Dev", "test"]
    rows = "".join(f"w {i},{i % 2},{names[i % 3]}\n" for i in range(60))
    path = write(tmp_path, "a.csv", "text,label,fold\n" + rows)
    splits, _ = splits_of(path, split_column="fold")
    assert {split: {row.split for row in rows} for split, rows in splits.items()} == {
        "train": {"TRAIN"},
        "val": {"Dev"},
        "test": {"test"},
    }
    write(tmp_path, "a.csv", "text,label,fold\n" + rows.replace("Dev", "train"))
    splits, _ = splits_of(path, split_column="fold")
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 34,
        "val": 6,
        "test": 20,
    }
    write(tmp_path, "a.csv", "text,label,fold\nw,1,trainn\n")
    with pytest.raises(InputError, match="'fold', line 2: unknown split 'trainn'; valid: train, "):
        splits_of(path, split_column="fold")


def test_files_of_a_folder_are_splits_and_leaks_leave_training(tmp_path):
    write(tmp_path, "Train.csv", PLAIN)
    write(tmp_path, "test.tsv", "text\tlabel\nthing 1 is bad\tneg\nnew\tpos\n")
    write(tmp_path, "notes.md", "not data")
    splits, notes = splits_of(tmp_path)
    assert [row.text for row in splits["test"]] == ["thing 1 is bad", "new"]
    assert len(splits["train"]) + len(splits["val"]) == 39
    assert notes == [
        "1 row of the train split dropped, their text also occurs in a split that judges it"
    ]


def test_a_lone_sample_stays_in_training(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN + "only one,rare\n")
    splits, _ = splits_of(path, val_fraction=0.6, test_fraction=0.3)
    assert "rare" in {row.label for row in splits["train"]}


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        ({"a.csv": "text,label\n"}, {}, "no usable row for train"),
        ({"a.csv": "text,label\na,1\nb,1\n" + PLAIN[11:31]}, {}, "give no validation sample"),
        (
            {"a.csv": "text,label\n" + "".join(f"x{i},pos\n" for i in range(20))},
            {},
            "needs at least 2 classes, and the training split has only 'pos'",
        ),
        (
            {"train.csv": PLAIN, "dev.jsonl": '{"text": "q", "label": "odd"}'},
            {},
            r"label 'odd' \(line 1 of the val split\) occurs in no row of the training split",
        ),
        (
            {"a.csv": PLAIN},
            {"text_column": "label", "label_column": "text"},
            "Is label_column = 'text' right",
        ),
    ],
)
def test_data_that_can_not_be_trained_on(tmp_path, files, values, message):
    for name, content in files.items():
        write(tmp_path, name, content)
    data = tmp_path if len(files) > 1 else tmp_path / "a.csv"
    with pytest.raises(InputError, match=message):
        text_classification.prepare(config(data, **values), tmp_path / "cache")


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        ({"a.xlsx": PLAIN}, {}, r"unknown kind of file '\.xlsx'; valid: \.csv"),
        ({"a.csv": ""}, {}, "text_column = 'text': a.csv has no such column; it has: none at all"),
        ({"a.csv": "Text,Labels,txt\n"}, {}, "'text': a.csv .* it has: txt, Text, Labels"),
        ({"a.csv": PLAIN}, {"label_column": "text"}, "label_column = 'text': must not be"),
        ({"a.csv": PLAIN}, {"split_column": "fold"}, "split_column = 'fold': a.csv has no such"),
        ({"a.csv": "text,text,label\n"}, {}, "a.csv has more than one column of that name"),
        ({"a.jsonl": '[{"text": 1}]'}, {}, "each line must be a JSON object"),
        ({"dev.csv": PLAIN, "b": ""}, {}, r"needs a train file, such as train\.csv .* dev\.csv"),
        ({"train.csv": PLAIN, "val.csv": PLAIN, "dev.csv": PLAIN}, {}, "are both the val split"),
        ({"train.csv": PLAIN, "b": ""}, {"split_column": "c"}, "only for a single file"),
        ({"train.csv": PLAIN, "test.csv": "body,label\n"}, {}, "'text': test.csv has no such"),
        ({"a.csv": PLAIN}, {"model": "scratch:bert-min"}, "unknown model .* valid: scratch:bert-m"),
        ({"a.csv": PLAIN}, {"model": "./nowhere"}, r"model = '\./nowhere': no such folder"),
        ({"a.csv": PLAIN}, {"model": "bert base"}, "neither a folder nor a Hugging Face name"),
        (
            {"a.csv": PLAIN},
            {"freezing": "first_k", "frozen_blocks": 4},
            r"must be from 1 to 3; model .* has 4 blocks \(embeddings, layer\.0 … layer\.1, head\)",
        ),
    ],
)
def test_check_names_what_is_wrong(tmp_path, files, values, message):
    for name, content in files.items():
        write(tmp_path, name, content)
    data = tmp_path if len(files) > 1 else tmp_path / next(iter(files))
    with pytest.raises(InputError, match=message):
        text_classification.check(config(data, **values))


def test_check_looks_into_a_local_model(tmp_path):
    data = write(tmp_path, "a.csv", PLAIN)
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(InputError, match=r"no config\.json and no weights .* and no tokenizer"):
        text_classification.check(config(data, model=str(model)))
    about = {"model_type": "roberta", "num_hidden_layers": 3, "max_position_embeddings": 66}
    write(model, "config.json", json.dumps(about))
    write(model, "model.safetensors", "")
    write(model, "vocab.json", "")
    text_classification.check(config(data, model=str(model), max_tokens=64))
    with pytest.raises(InputError, match="max_tokens = 65: must be at most 64"):
        text_classification.check(config(data, model=str(model), max_tokens=65))
    with pytest.raises(InputError, match="must be from 1 to 4"):
        text_classification.check(
            config(data, model=str(model), freezing="first_k", frozen_blocks=5)
        )
    write(model, "config.json", "{}")
    with pytest.raises(InputError, match="names no model_type"):
        text_classification.check(config(data, model=str(model)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[TextClassificationConfig, PreparedData, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    chosen = config(write(folder, "a.csv", PLAIN), max_tokens=8)
    return chosen, text_classification.prepare(chosen, folder / "cache"), folder


def test_prepared_arrays(prepared):
    _, data, _ = prepared
    assert data.info.classes == ("neg", "pos")
    assert data.info.details["split_sizes"] == {"train": 28, "val": 6, "test": 6}
    for split in data.splits.values():
        ids, length = split.arrays["input_ids"], split.arrays["length"]
        assert ids.dtype == length.dtype == np.int32
        assert split.arrays["label"].dtype == np.int64
        assert ids.shape == (len(split), length.max())
        assert length.max() <= 8
        padding = np.arange(ids.shape[1]) >= length[:, None]
        assert (ids[padding] == data.info.details["pad_id"]).all()
        assert (ids[~padding] != data.info.details["pad_id"]).all()


def test_prepared_data_is_made_once_per_content(prepared, monkeypatch):
    chosen, data, folder = prepared
    monkeypatch.setattr(text_data, "_make", lambda *_: pytest.fail("made again"))
    again = text_classification.prepare(chosen, folder / "cache")
    assert again.info == data.info
    changed = chosen.model_copy(update={"learning_rate": 0.1})
    text_classification.prepare(changed, folder / "cache")
    with pytest.raises(pytest.fail.Exception):
        text_classification.prepare(chosen.model_copy(update={"max_tokens": 9}), folder / "cache")


def test_the_same_texts_give_the_same_tokenizer(prepared, tmp_path):
    chosen, data, _ = prepared
    again = text_classification.prepare(chosen, tmp_path / "another")
    assert again.info == data.info
    files = [(d.assets / "tokenizer.json").read_bytes() for d in (data, again)]
    assert files[0] == files[1]


def test_encode_treats_new_texts_like_the_splits(prepared):
    chosen, data, _ = prepared
    texts = ["number 3 is good", "thing 7 is bad " * 9, "half \ud83d", "\u0001x"]
    arrays = text_data.encode([*texts, "é".encode()], chosen, data.info, data.assets)
    assert arrays["input_ids"].shape == (5, 8)
    assert arrays["length"][1] == 8
    first = text_data.encode(texts[:1], chosen, data.info, data.assets)
    width = first["input_ids"].shape[1]
    assert (first["input_ids"] == arrays["input_ids"][:1, :width]).all()
    assert text_data.encode([], chosen, data.info, data.assets)["length"].shape == (0,)
    for bad, message in ((" \n", "text 1: is empty"), (b"\xff", "text 1: is not UTF-8")):
        with pytest.raises(InputError, match=message):
            text_data.encode(["fine", bad], chosen, data.info, data.assets)


def test_cut_texts_are_reported(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN + "long " * 30 + ",pos\n")
    info = text_classification.prepare(config(path, max_tokens=8), tmp_path / "cache").info
    assert info.notes == ("1 of 41 texts have more than max_tokens = 8 tokens and were cut",)


def test_whole_numbers_sort_as_numbers(tmp_path):
    rows = "".join(f"word {i},{i % 11}\n" for i in range(220))
    path = write(tmp_path, "a.csv", "text,label\n" + rows)
    classes = text_classification.prepare(config(path), tmp_path / "cache").info.classes
    assert classes == tuple(map(str, range(11)))


def test_checking_and_preparing_from_scratch_import_no_torch(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN)
    code = (
        "import sys; from pathlib import Path\n"
        "from trainables.modalities.texts import text_data\n"
        "from trainables.tasks import text_classification\n"
        "from trainables.tasks.text_classification import TextClassificationConfig as C\n"
        f"c = C(data={str(path)!r}); text_classification.check(c); text_data.fetch(c)\n"
        "assert 'tokenizers' not in sys.modules\n"
        f"text_classification.prepare(c, Path({str(tmp_path / 'cache')!r}))\n"
        "assert not {'torch', 'transformers', 'ray', 'optuna', 'mlflow'} & set(sys.modules)\n"
    )
    root = Path(text_data.__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
