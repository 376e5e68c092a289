"""Documents to model: whole text files, or a column of a table; divided by document or by place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trainables.data import splits
from trainables.data.paths import data_path, regular_files
from trainables.data.records import Reading, Record
from trainables.data.tables import TABLES, check_columns, read_records, read_text

TEXT = "text_column"  # the setting that a record has its document by
_WHOLE = (".txt", ".text", ".md")  # files that are one document
DOCUMENTS = (*_WHOLE, *(suffix for suffix in TABLES if suffix not in _WHOLE))
# Fewer documents than this are each cut into a training, a validation and a test part, in this
# order: parts drawn by chance would lie in each other's context. Assumed.
_FEW = 100
_NEAR = 1000  # characters before a cut in which a line's end is looked for. Assumed.


def document_files(config: Any) -> dict[str, Path]:
    """The files of ``config.data`` by split; a folder of which no file is called so is "train".

    Raises:
        InputError: there is no such file or folder, or none of a readable kind.
    """
    path = data_path(config.data)
    files = documents_in(path) if path.is_dir() else []
    # Not by words in their names, as of other data: a story may be called night_train.txt.
    if files and not any(file.stem.lower() in splits.SPLIT_NAMES for file in files):
        return {"train": path}
    return splits.data_files(config, DOCUMENTS)


def documents_in(path: Path) -> list[Path]:
    """A file, or those files of a folder that are documents."""
    if path.is_file():
        return [path]
    return [file for file in regular_files(path) if file.suffix.lower() in DOCUMENTS]


def check_documents(path: Path, columns: Mapping[str, str]) -> None:
    """Look for ``columns`` in the tables among the files.

    Raises:
        InputError: a file can not be read, or has no such column.
    """
    for file in documents_in(path):
        if file.suffix.lower() not in _WHOLE:
            check_columns(file, columns)


def read_documents(path: Path, columns: Mapping[str, str]) -> Reading:
    """Records of one ``text_column``: a whole file, a row of a table, or all those of a folder.

    Raises:
        InputError: a file can not be read, is not text, or lacks the column.
    """
    reading = Reading(path.name)
    for file in documents_in(path):
        if file.suffix.lower() in _WHOLE:
            text = read_text(file, reading)
            if text.strip():
                reading.records.append(Record(1, {TEXT: text}))
            else:
                reading.note(f"{file.name} is empty")
        else:
            found = read_records(file, columns)
            reading.records += found.records
            reading.notes += found.notes
    return reading


def read_document_splits(config: Any, files: Mapping[str, Path]) -> tuple[splits.Splits, list[str]]:
    """The documents of each of SPLITS, and what was skipped, for a person to read.

    Raises:
        InputError: a file can not be read, or a split that is needed has no document.
    """
    columns = splits.columns_of(config)
    read = partial(read_documents, columns=columns)
    readings = {split: read(path) for split, path in files.items()}
    fractions = {
        split: fraction
        for split, fraction in (("val", config.val_fraction), ("test", config.test_fraction))
        if split not in files and fraction > 0
    }
    if len(readings["train"].records) < _FEW and "split_column" not in columns:
        readings |= _cut_each(readings["train"], fractions)
    return splits.read_splits(config, readings, lambda reading: reading, TEXT)


def _cut_each(whole: Reading, fractions: Mapping[str, float]) -> dict[str, Reading]:
    """Divide each document after a line's end: what is left to train on first."""
    train = Reading(whole.name, notes=whole.notes)
    parts = {"train": train, **{split: Reading(whole.name) for split in fractions}}
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    for record in whole.records:
        text, start, share = record[TEXT], 0, 0.0
        for split, part in parts.items():
            share += shares[split]
            stop = round(share * len(text))
            stop = text.rfind("\n", max(start, stop - _NEAR), stop) + 1 or stop
            piece = text[start : stop if split != list(parts)[-1] else len(text)]
            start += len(piece)
            if piece.strip():
                part.records.append(Record(record.line, {TEXT: piece}))
    return parts
