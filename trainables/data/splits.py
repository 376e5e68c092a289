"""Files of records to a training, a validation and a test split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field

from trainables.data.paths import data_path, regular_files
from trainables.data.prepare import stratified_split
from trainables.data.records import Reading, Record, column_word
from trainables.errors import InputError, unknown
from trainables.prepared import SPLITS

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testa": "val",  # as the files of CoNLL-2003 are called
    "test": "test",
    "testb": "test",
}

Splits = dict[str, list[Record]]
File = TypeVar("File")


def columns_of(config: Any) -> dict[str, str]:
    """The columns that ``config`` names, by setting: those whose names end in ``_column``."""
    named = {name: getattr(config, name) for name in type(config).model_fields}
    return {
        name: column
        for name, column in named.items()
        if name.endswith("_column") and column is not None
    }


def data_files(config: Any, suffixes: Collection[str]) -> dict[str, Path]:
    """The files of ``config.data`` by split; a single file is all "train".

    Args:
        suffixes: the kinds of file that can be read, in lower case.

    Raises:
        InputError: there is no such file or folder, or it is of no readable kind.
    """
    path = data_path(config.data)
    valid = ", ".join(suffix for suffix in suffixes if suffix)
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise InputError(
                f"data = {config.data!r}: unknown kind of file {path.suffix!r}; valid: {valid}"
            )
        return {"train": path}
    files = regular_files(path)
    found = named_splits(config, files, suffixes)
    if "train" not in found:
        named = ", ".join(file.name for file in files[:8]) or "nothing"
        example = f"train{next(iter(suffixes))}"
        raise InputError(
            f"data = {config.data!r}: the folder needs a train file, such as {example} (valid: "
            f"{valid}); it has {named}"
        )
    if getattr(config, "split_column", None) is not None:
        raise InputError(
            f"split_column = {config.split_column!r}: only for a single file; the files of the"
            f" folder {config.data!r} are the splits"
        )
    return found


def named_splits(config: Any, files: Iterable[Path], suffixes: Collection[str]) -> dict[str, Path]:
    """Those of ``files`` that are called as a split is; if none is, those that have it in the name.

    Raises:
        InputError: two are the same split.
    """
    readable = [file for file in files if file.suffix.lower() in suffixes]
    found: dict[str, Path] = {}
    for words in (lambda file: [file.stem.lower()], _words):
        for file in readable:
            split = next((SPLIT_NAMES[word] for word in words(file) if word in SPLIT_NAMES), None)
            if split in found:
                raise InputError(
                    f"data = {config.data!r}: {found[split].name} and {file.name} are both the"
                    f" {split} split; keep one"
                )
            if split is not None:
                found[split] = file
        if found:
            break
    return found


def _words(file: Path) -> list[str]:
    return re.split(r"[^a-z]+", file.name.lower())


SplitColumn = Annotated[
    str | None, Field(description="column that says train, val or test for each row")
]


def read_splits(
    config: Any,
    files: Mapping[str, File],
    read: Callable[[File], Reading],
    identity: str,
    answer: str | None = None,
    stratify: bool = False,
) -> tuple[Splits, list[str]]:
    """The records of each of SPLITS, and what was skipped or repaired, for a person to read.

    Args:
        config: ``split_seed``, ``val_fraction``, ``test_fraction`` say how missing splits are cut.
        read: what reads a file.
        identity: the setting whose value must not be in two splits, such as the text's.
        answer: the setting whose value is to be predicted: a record that repeats another's identity
            and answer is dropped. None: all are kept.
        stratify: cut each answer, a class, in the same proportions; else the records by chance.

    Raises:
        InputError: a file can not be read, or a split that is needed has no record.
    """
    readings = {split: read(path) for split, path in files.items()}
    if answer is not None:
        for reading in readings.values():
            _drop_duplicates(reading, identity, answer)
    notes = [note for reading in readings.values() for note in reading.notes]
    given = {split: reading.records for split, reading in readings.items()}
    if getattr(config, "split_column", None) is not None:
        given = _by_split_column(given["train"], config)
    notes += _drop_leaks(given, identity)
    for split, records in given.items():
        if not records:
            raise InputError(
                "\n".join([f"data = {config.data!r}: no usable row for {split}", *notes])
            )
    return _cut_missing(given, config, answer if stratify else None, notes), notes


def _key(value: Any) -> Hashable:
    return repr(value) if isinstance(value, list) else value  # type: ignore[no-any-return]


def _drop_duplicates(reading: Reading, identity: str, answer: str) -> None:
    # For each identity the answers to it, with the line that had them first.
    answers: dict[Hashable, dict[Hashable, int]] = defaultdict(dict)
    duplicates, kept = [], []
    for record in reading.records:
        known = answers[_key(record[identity])]
        if _key(record[answer]) in known:
            duplicates.append(record.line)
        else:
            known[_key(record[answer])] = record.line
            kept.append(record)
    reading.records = kept
    what, told = column_word(identity), column_word(answer)
    reading.note_rows(f"dropped, same {what} and {told} as an earlier row", duplicates)
    conflicts = [line for found in answers.values() if len(found) > 1 for line in found.values()]
    reading.note_rows(
        f"kept although their {what} occurs with different {told}s", sorted(conflicts)
    )


def _by_split_column(records: Iterable[Record], config: Any) -> Splits:
    groups: Splits = {"train": []}
    for record in records:
        split = SPLIT_NAMES.get(record["split_column"].lower())
        if split is None:
            raise InputError(
                f"split_column = {config.split_column!r}, line {record.line}: "
                + unknown("split", record["split_column"], SPLIT_NAMES)
            )
        groups.setdefault(split, []).append(record)
    return groups


def _drop_leaks(given: Splits, identity: str) -> list[str]:
    """Take records of the test split out of the others, and those of validation out of training.

    The later split stays whole, so that its scores compare with what others measured on it.
    """
    notes, seen = [], set[Hashable]()
    for split in ("test", "val", "train"):
        records = given.get(split, [])
        kept = [record for record in records if _key(record[identity]) not in seen]
        if len(kept) < len(records):
            n_leaks = len(records) - len(kept)
            notes.append(
                f"{n_leaks} {'rows' if n_leaks > 1 else 'row'} of the {split} split dropped, same"
                f" {column_word(identity)} as in a split that judges it"
            )
            given[split] = kept
        seen.update(_key(record[identity]) for record in records)
    return notes


def _cut_missing(
    given: Mapping[str, list[Record]], config: Any, classes_of: str | None, notes: list[str]
) -> Splits:
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    missing = [split for split in fractions if split not in given]
    records = given["train"]
    answers = [record[classes_of] if classes_of else "" for record in records]
    index = {answer: i for i, answer in enumerate(sorted(set(answers)))}
    targets = np.array([index[answer] for answer in answers], np.int64)
    parts = stratified_split(targets, [fractions[split] for split in missing], config.split_seed)
    cut = {
        split: [records[i] for i in part]
        for split, part in zip([*missing, "train"], parts, strict=True)
    }
    if not cut.get("val", given.get("val")):
        problem = f"val_fraction = {config.val_fraction}: {len(records)} rows give no validation"
        if classes_of is None:
            raise InputError(f"{problem} sample; it needs more rows or a greater fraction")
        raise InputError(
            f"{problem} sample in {len(index)} classes, each class being divided on its own;"
            f" it needs more rows per class or a greater fraction. Is {classes_of} ="
            f" {getattr(config, classes_of)!r} right?"
        )
    if not cut.get("test", given.get("test")) and config.test_fraction > 0:
        few = "the classes have too few rows" if classes_of else "there are too few rows"
        notes.append(f"the test split is empty: {few} to give it any")
    return {split: cut.get(split, given.get(split, [])) for split in SPLITS}
