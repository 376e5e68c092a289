"""Files of records as splits: cut, given, without leaks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from labelled_texts import PLAIN, config, write

from trainables.data.records import Record, label, number
from trainables.data.splits import columns_of, data_files, read_splits
from trainables.data.tables import TABLES, read_records
from trainables.errors import InputError


def splits_of(data: Path, **values: object) -> tuple[dict[str, list[Record]], list[str]]:
    chosen = config(data, **values)
    read = partial(read_records, columns=columns_of(chosen), kinds={"label_column": label})
    files = data_files(chosen, TABLES)
    return read_splits(chosen, files, read, "text_column", "label_column", stratify=True)


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
    assert {split: {row["split_column"] for row in rows} for split, rows in splits.items()} == {
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
    assert [row["text_column"] for row in splits["test"]] == ["thing 1 is bad", "new"]
    assert len(splits["train"]) + len(splits["val"]) == 39
    assert notes == ["1 row of the train split dropped, same text as in a split that judges it"]


def test_a_lone_sample_stays_in_training(tmp_path):
    path = write(tmp_path, "a.csv", PLAIN + "only one,rare\n")
    splits, _ = splits_of(path, val_fraction=0.6, test_fraction=0.3)
    assert "rare" in {row["label_column"] for row in splits["train"]}


def test_numbers_are_cut_by_chance(tmp_path):
    rows = "".join(f"text {i},{i / 7}\n" for i in range(100))
    path = write(tmp_path, "a.csv", "text,label\n" + rows + "text 7,5\ntext 8,x\n")
    chosen = config(path)
    read = partial(read_records, columns=columns_of(chosen), kinds={"label_column": number})
    splits, notes = read_splits(chosen, {"train": path}, read, "text_column", "label_column")
    assert {split: len(each) for split, each in splits.items()} == {
        "train": 71,
        "val": 15,
        "test": 15,
    }
    assert notes == [
        "a.csv: 1 row dropped, wrong label: 'x' is not a number (line 103)",
        "a.csv: 2 rows kept although their text occurs with different labels (lines 9, 102)",
    ]
    write(tmp_path, "a.csv", "text,label\na,1\nb,2\n")
    with pytest.raises(InputError, match="2 rows give no validation sample; it needs more rows or"):
        read_splits(chosen, {"train": path}, read, "text_column", "label_column")


def test_files_that_have_a_split_in_their_name_count_where_none_is_called_so(tmp_path):
    write(tmp_path, "spam_train_v2.csv", PLAIN)
    test = write(tmp_path, "spam-test.csv", PLAIN)
    assert data_files(config(tmp_path), TABLES)["test"] == test
    train = write(tmp_path, "train.csv", PLAIN)
    assert data_files(config(tmp_path), TABLES) == {"train": train}
