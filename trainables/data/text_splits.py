"""Files of labelled texts to a training, a validation and a test split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.prepare import stratified_split
from trainables.data.text_files import DELIMITERS, Columns, Reading, Row, read_rows
from trainables.errors import InputError, unknown
from trainables.prepared import SPLITS

_SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def columns_of(config: Any) -> Columns:
    """The columns that ``config`` names."""
    return Columns(config.text_column, config.label_column, config.split_column)


def data_files(config: Any) -> dict[str, Path]:
    """The files of ``config.data`` by split; a single file is all "train".

    Raises:
        InputError: there is no such file or folder, or it is of no readable kind.
    """
    path = Path(config.data).expanduser()
    if not path.exists():
        raise InputError(f"data = {config.data!r}: no such file or folder")
    if path.is_file():
        if path.suffix.lower() not in DELIMITERS:
            raise InputError(
                f"data = {config.data!r}: unknown kind of file {path.suffix!r}; valid: "
                + ", ".join(DELIMITERS)
            )
        return {"train": path}
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        split = _SPLIT_NAMES.get(file.stem.lower())
        if split is None or file.suffix.lower() not in DELIMITERS:
            continue
        if split in found:
            raise InputError(
                f"data = {config.data!r}: {found[split].name} and {file.name} are both the {split}"
                " split; keep one"
            )
        found[split] = file
    if "train" not in found:
        files = sorted(file.name for file in path.iterdir())
        raise InputError(
            f"data = {config.data!r}: the folder needs a train file, such as train.csv (valid: "
            f"{', '.join(DELIMITERS)}); it has {', '.join(files[:8]) or 'nothing'}"
        )
    if config.split_column is not None:
        raise InputError(
            f"split_column = {config.split_column!r}: only for a single file; the files of the"
            f" folder {config.data!r} are the splits"
        )
    return found


def read_splits(config: Any, files: Mapping[str, Path]) -> tuple[dict[str, list[Row]], list[str]]:
    """The rows of each of SPLITS, and what was skipped or repaired, for a person to read.

    Raises:
        InputError: a file can not be read, or a split that is needed has no row.
    """
    readings = {split: read_rows(path, columns_of(config)) for split, path in files.items()}
    for reading in readings.values():
        _drop_duplicates(reading)
    notes = [note for reading in readings.values() for note in reading.notes]
    given = {split: reading.rows for split, reading in readings.items()}
    if config.split_column is not None:
        given = _by_split_column(given["train"], config)
    for split, rows in given.items():
        if not rows:
            raise InputError(
                "\n".join([f"data = {config.data!r}: no usable row for {split}", *notes])
            )
    notes += _drop_leaks(given)
    return _cut_missing(given, config, notes), notes


def _drop_duplicates(reading: Reading) -> None:
    labels: dict[str, dict[str, int]] = defaultdict(dict)  # of each text, with their first line
    duplicates = []
    kept = []
    for row in reading.rows:
        if row.label in labels[row.text]:
            duplicates.append(row.line)
        else:
            labels[row.text][row.label] = row.line
            kept.append(row)
    reading.rows = kept
    reading.note_rows("dropped, same text and label as an earlier row", duplicates)
    conflicts = [line for found in labels.values() if len(found) > 1 for line in found.values()]
    reading.note_rows("kept although their text occurs with different labels", sorted(conflicts))


def _by_split_column(rows: Iterable[Row], config: Any) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {"train": []}
    for row in rows:
        split = _SPLIT_NAMES.get(row.split.lower())
        if split is None:
            raise InputError(
                f"split_column = {config.split_column!r}, line {row.line}: "
                + unknown("split", row.split, _SPLIT_NAMES)
            )
        groups.setdefault(split, []).append(row)
    return groups


def _drop_leaks(given: dict[str, list[Row]]) -> list[str]:
    """Take texts of the test split out of the others, and those of validation out of training.

    The later split stays whole, so that its scores compare with what others measured on it.
    """
    notes, seen = [], set[str]()
    for split in ("test", "val", "train"):
        rows = given.get(split, [])
        kept = [row for row in rows if row.text not in seen]
        if len(kept) < len(rows):
            n_leaks = len(rows) - len(kept)
            notes.append(
                f"{n_leaks} {'rows' if n_leaks > 1 else 'row'} of the {split} split dropped, their"
                " text also occurs in a split that judges it"
            )
            given[split] = kept
        seen.update(row.text for row in rows)
    return notes


def _cut_missing(
    given: Mapping[str, list[Row]], config: Any, notes: list[str]
) -> dict[str, list[Row]]:
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    missing = [split for split in fractions if split not in given]
    rows = given["train"]
    labels = sorted({row.label for row in rows})
    index = {label: i for i, label in enumerate(labels)}
    targets = np.array([index[row.label] for row in rows], np.int64)
    parts = stratified_split(targets, [fractions[split] for split in missing], config.split_seed)
    cut = {
        split: [rows[i] for i in part]
        for split, part in zip([*missing, "train"], parts, strict=True)
    }
    if not cut.get("val", given.get("val")):
        raise InputError(
            f"val_fraction = {config.val_fraction}: {len(rows)} rows give no validation sample in"
            f" {len(labels)} classes, each class being divided on its own; it needs more rows per"
            f" class or a greater fraction. Is label_column = {config.label_column!r} right?"
        )
    if not cut.get("test", given.get("test")) and config.test_fraction > 0:
        notes.append("the test split is empty: the classes have too few rows to give it any")
    return {split: cut.get(split, given.get(split, [])) for split in SPLITS}


def class_names(rows: Mapping[str, Sequence[Row]], config: Any) -> tuple[str, ...]:
    """The labels of the training split, sorted; by number if all are whole numbers.

    Raises:
        InputError: there are fewer than two, or another split has one that training has not.
    """
    counts = Counter(row.label for row in rows["train"])
    for split in ("val", "test"):
        strange = next((row for row in rows[split] if row.label not in counts), None)
        if strange is not None:
            raise InputError(
                f"label_column = {config.label_column!r}: label {strange.label!r} (line"
                f" {strange.line} of the {split} split) occurs in no row of the training split"
            )
    if len(counts) < 2:
        raise InputError(
            f"label_column = {config.label_column!r}: needs at least 2 classes, and the training"
            f" split has only {', '.join(map(repr, counts))}"
        )
    try:
        return tuple(sorted(counts, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(counts))
