"""Records out of CSV, TSV, JSONL and Parquet files, whatever their encoding or damage."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from trainables.data.delimited import DELIMITERS, Delimited
from trainables.data.paths import read_bytes
from trainables.data.records import Kind, Reading, Record, column_word, label, text
from trainables.data.splits import columns_of, data_files
from trainables.data.text_encoding import decode
from trainables.errors import InputError, first_line, valid_choices

JSON_LINES = (".jsonl", ".json-lines", ".ndjson")
# How each kind of file names its columns.
_NAMING = {
    **dict.fromkeys(DELIMITERS, "the first line must name the columns"),
    **dict.fromkeys(JSON_LINES, "each line must be a JSON object with the columns as keys"),
    ".parquet": "its schema names them",
}
TABLES = tuple(_NAMING)
LISTS = (*JSON_LINES, ".parquet")  # those of which a value may be a list

_HEAD_BYTES = 1 << 20  # enough for a header, or a first JSON object with a long document in it
_MAY_BE_EMPTY = "split_column"  # whoever uses it says in which line

Columns = Mapping[str, str]  # setting -> the column that it names
Rows = Iterator[tuple[int, dict[str, Any]]]  # line, and values by setting


def check_columns(path: Path, columns: Columns) -> None:
    """Look for ``columns`` in the header, or in the first JSON objects; reads the head of the file.

    Raises:
        InputError: the file can not be read, or has no such column, or has it twice.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with _parquet(path) as file:
            _check_names(path, file.schema_arrow.names, columns)
        return
    raw = read_bytes(path, _HEAD_BYTES)
    is_whole = len(raw) < _HEAD_BYTES
    if not is_whole:
        raw = raw[: raw.rfind(b"\n") + 1] or raw
    content, _ = decode(raw, path.name, errors="replace")
    if suffix in DELIMITERS:
        names = Delimited(content, suffix, columns.values()).names
    else:
        objects = [_json_object(line) or {} for line in content.split("\n")[:100]]
        names = list(dict.fromkeys(name for each in objects for name in each))
    if names or is_whole:
        _check_names(path, names, columns)


def check_answer(config: Any, identity: str, answer: str) -> None:
    """See that the tables of ``config.data`` have its columns, and the two below are not one.

    Args:
        identity, answer: the settings that name the column of inputs, and of what is predicted.

    Raises:
        InputError: data or a column is not there, or both settings name the same column.
    """
    for path in data_files(config, TABLES).values():
        check_columns(path, columns_of(config))
    column = getattr(config, identity)
    if column == getattr(config, answer):
        raise InputError(f"{answer} = {column!r}: must not be the {identity} too")


def read_records(path: Path, columns: Columns, kinds: Mapping[str, Kind] | None = None) -> Reading:
    """Every usable record of ``path``; unusable ones are counted in the notes.

    Args:
        kinds: by setting, what the values of its column are turned into; ``text`` by default. A
            row without a value in a column, the split's apart, or with one that its kind refuses,
            is not usable.

    Raises:
        InputError: the file can not be read, is not text, or lacks a column.
    """
    reading = Reading(path.name)
    kinds = {**dict.fromkeys(columns, text), _MAY_BE_EMPTY: label, **(kinds or {})}
    needed = [setting for setting in columns if setting != _MAY_BE_EMPTY]
    empty: list[int] = []
    refused: dict[str, list[int]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for line, values in _rows(path, columns, kinds, reading):
        if any(_is_missing(values[setting]) for setting in needed):
            empty.append(line)
            continue
        setting = ""
        try:
            for setting, value in values.items():
                values[setting] = "" if _is_missing(value) else kinds[setting](value)
        except ValueError as error:
            refused[setting].append(line)
            reasons.setdefault(setting, str(error))
        else:
            reading.records.append(Record(line, values))
    reading.note_rows("dropped, " + " or ".join(f"no {column_word(s)}" for s in needed), empty)
    for setting, lines in refused.items():
        reading.note_rows(f"dropped, wrong {column_word(setting)}: {reasons[setting]}", lines)
    return reading


def read_text(path: Path, reading: Reading) -> str:
    """A file's text; its encoding is noted if it is not UTF-8.

    Raises:
        InputError: the file can not be read, or is not text.
    """
    content, encoding = decode(read_bytes(path), path.name)
    if encoding not in ("utf-8", "utf-8-sig"):
        reading.note(f"not UTF-8, read as {encoding}")
    return content


def _is_missing(value: Any) -> bool:
    is_blank = isinstance(value, str) and not value.strip()
    return value is None or is_blank or bool(value != value)  # NaN is not equal to itself


def _check_names(path: Path, names: Sequence[str], columns: Columns) -> None:
    for setting, name in columns.items():
        if name not in names:
            has = valid_choices(name, [n[:40] for n in names if n]) or "none at all"
            raise InputError(
                f"{setting} = {name!r}: {path.name} has no such column; it has: {has} "
                f"({_NAMING[path.suffix.lower()]})"
            )
        if list(names).count(name) > 1:
            raise InputError(
                f"{setting} = {name!r}: {path.name} has more than one column of that name"
            )


def _rows(path: Path, columns: Columns, kinds: Mapping[str, Kind], reading: Reading) -> Rows:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(path, columns)
        return
    content = read_text(path, reading)
    if suffix not in DELIMITERS:
        yield from _json_rows(path, content, columns, reading)
        return
    table = Delimited(content, suffix, columns.values())
    _check_names(path, table.names, columns)
    at = {setting: table.names.index(name) for setting, name in columns.items()}
    last = [kinds[setting] for setting, i in at.items() if i == len(table.names) - 1]
    for line, cells in table.rows(reading, text_is_last=text in last):
        yield line, {setting: cells[i] for setting, i in at.items()}


def _json_rows(path: Path, content: str, columns: Columns, reading: Reading) -> Rows:
    broken, keys = [], dict[str, None]()
    for line, written in enumerate(content.split("\n"), start=1):  # splitlines cuts at U+2028
        found = _json_object(written)
        if found is not None:
            keys.update(dict.fromkeys(found))
            yield line, {setting: found.get(name) for setting, name in columns.items()}
        elif written.strip():
            broken.append(line)
    if keys or not broken:
        _check_names(path, list(keys), columns)
    reading.note_rows("dropped, not a JSON object", broken)


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _parquet_rows(path: Path, columns: Columns) -> Rows:
    with _parquet(path) as file:
        _check_names(path, file.schema_arrow.names, columns)
        batches = file.iter_batches(columns=sorted(set(columns.values())))
        every_row = chain.from_iterable(batch.to_pylist() for batch in batches)
        for row, values in enumerate(every_row, start=1):
            yield row, {setting: values[name] for setting, name in columns.items()}


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile  # 0.2 s, for files of this kind only

    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        reason = first_line(error)
        raise InputError(f"data: {path.name} can not be read as Parquet: {reason}") from None
