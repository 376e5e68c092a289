"""Images that a table names, with what people's tables get wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.config import check_config
from trainables.errors import InputError
from trainables.prepared import PreparedData
from trainables.tasks.image_regression import TASK


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(20):
        level = 10 * number
        Image.new("L", (12, 12), level).save(tmp_path / "in" / f"{number}.png")
    return tmp_path


LINES = [f"in/{number}.png,{10 * number}" for number in range(20)]


def prepare(folder: Path, lines: list[str], header: str = "path,number", **values) -> PreparedData:
    (folder / "table.csv").write_text("\n".join([header, *lines]))
    settings = {"data": str(folder / "table.csv"), "image_size": 8, **values}
    return TASK.prepare(check_config(settings, TASK.config_type), folder / "cache")


def test_each_image_keeps_its_number(pictures):
    data = prepare(pictures, LINES)
    assert data.info.notes == ()
    details = data.info.details
    n = 0
    for split in data.splits.values():
        numbers = split.arrays["label"] * details["number_std"] + details["number_mean"]
        levels = split.arrays["image"].reshape(len(split), -1).mean(1)
        assert levels == pytest.approx(numbers, abs=1e-3)
        n += len(split)
    assert n == 20
    assert details["channels"] == 1


def test_files_that_can_not_be_used_are_named_and_left_out(pictures):
    (pictures / "in" / "3.png").write_text("no picture")
    (pictures / "in" / "4.png").write_bytes((pictures / "in" / "5.png").read_bytes()[:45])
    lines = [*LINES, "in/gone.png,7", f"{'x' * 300}.png,8", "in,9", "in/6.png,many", ",3"]
    data = prepare(pictures, lines)
    assert sum(map(len, data.splits.values())) == 18
    notes = "\n".join(data.info.notes)
    assert "3 rows dropped, wrong path: 'in/gone.png' is no file (lines 22, 23, 24)" in notes
    assert "1 row dropped, wrong number: 'many' is not a number (line 25)" in notes
    assert "1 row dropped, no number or no path (line 26)" in notes
    assert "in/3.png" in notes
    assert "in/4.png" in notes
    details, split = data.info.details, data.splits["train"]
    numbers = split.arrays["label"] * details["number_std"] + details["number_mean"]
    levels = split.arrays["image"].reshape(len(split), -1).mean(1)
    assert levels == pytest.approx(numbers, abs=1e-3)  # none has slipped


def test_absolute_paths_and_a_split_column(pictures, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (pictures / "in" / "2.png").write_text("no picture")
    splits = ["train"] * 14 + ["val"] * 3 + ["test"] * 3
    lines = [
        f"{pictures / 'in' / f'{number}.png'},{number},{split}"
        for number, split in enumerate(splits)
    ]
    data = prepare(elsewhere, lines, "file,cells,part", path_column="file", number_column="cells",
                   split_column="part")  # fmt: skip
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 13,
        "val": 3,
        "test": 3,
    }
    assert data.splits["train"].arrays["image"].shape == (13, 1, 8, 8)
    assert str(pictures / "in" / "2.png") in data.info.notes[0]


def test_an_image_that_changes_is_read_again(pictures):
    before = prepare(pictures, LINES).info.fingerprint
    assert prepare(pictures, LINES).info.fingerprint == before
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(pictures / "in" / "0.png")
    assert prepare(pictures, LINES).info.fingerprint != before


@pytest.mark.parametrize(
    ("lines", "values", "message"),
    [
        (LINES, {"path_column": "file"}, "path_column = 'file': table.csv has no such column"),
        (LINES, {"number_column": "cells"}, "number_column = 'cells': table.csv has no such"),
        (LINES, {"number_column": "path"}, "number_column = 'path': must not be the path_column"),
        ([f"in/{i}.png,5" for i in range(20)], {}, "all 14 numbers of the training split are 5"),
        (["nowhere/1.png,5", "nowhere/2.png,6"], {}, "no usable row for train"),
    ],
)
def test_tables_that_can_not_be_used_are_refused(pictures, lines, values, message):
    with pytest.raises(InputError, match=message):
        prepare(pictures, lines, **values)


def test_images_of_which_none_is_readable_are_refused(pictures):
    for file in (pictures / "in").iterdir():
        file.write_text("no picture")
    with pytest.raises(InputError, match="no image of the train split is readable"):
        prepare(pictures, LINES)
