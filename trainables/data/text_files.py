"""Labelled texts out of CSV, TSV and JSONL files, whatever their encoding, delimiter or damage."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal

from trainables.data.text_encoding import decode, without_surrogates
from trainables.errors import InputError, valid_choices

# What may separate columns, by suffix, likeliest first. None: one JSON object a line.
DELIMITERS: dict[str, tuple[str, ...] | None] = {
    ".csv": (",", ";", "\t", "|"),
    ".tsv": ("\t", ",", ";", "|"),
    ".txt": ("\t", ",", ";", "|"),
    ".jsonl": None,
    ".json-lines": None,
    ".ndjson": None,
}
_HEAD_BYTES = 1 << 20  # enough for a header, or a first JSON object with a long document in it


@dataclass(frozen=True)
class Columns:
    """Names of the columns that matter."""

    text: str
    label: str
    split: str | None = None

    def names(self) -> dict[str, str]:
        """The setting that names each column, and the name."""
        named = {"text_column": self.text, "label_column": self.label}
        return named if self.split is None else {**named, "split_column": self.split}


@dataclass(frozen=True)
class Row:
    """One labelled text; ``line`` is where it begins in its file, counted from 1."""

    line: int
    text: str
    label: str
    split: str = ""


@dataclass
class Reading:
    """The usable rows of a file, and what was skipped or repaired, for a person to read."""

    name: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note_rows(self, what: str, lines: Sequence[int]) -> None:
        """Say how many rows ``what`` happened to and where; nothing if to none."""
        if lines:
            shown = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
            rows, at = ("rows", "lines") if len(lines) > 1 else ("row", "line")
            self.notes.append(f"{self.name}: {len(lines)} {rows} {what} ({at} {shown})")


def check_columns(path: Path, columns: Columns) -> None:
    """Look for ``columns`` in the header, or in the first JSON objects; reads the head of the file.

    Raises:
        InputError: the file can not be read, or has no such column, or has it twice.
    """
    raw = _read(path, _HEAD_BYTES)
    if len(raw) == _HEAD_BYTES:
        raw = raw[: raw.rfind(b"\n") + 1] or raw
    text, _ = decode(raw, path.name, errors="replace")
    if DELIMITERS[path.suffix.lower()] is None:
        names = _json_keys(text)
    else:
        lines = list(io.StringIO(text, newline=""))
        with _any_field_size():
            delimiter = _delimiter(lines, path.suffix.lower(), columns)
            names = _header(lines, delimiter)[1]
    if names or len(raw) < _HEAD_BYTES:
        _check_names(path.name, names, columns)


def read_rows(path: Path, columns: Columns) -> Reading:
    """Every usable row of ``path``; unusable ones are counted in the notes.

    Raises:
        InputError: the file can not be read, is not text, or lacks a column.
    """
    reading = Reading(path.name)
    text, encoding = decode(_read(path), path.name)
    if encoding not in ("utf-8", "utf-8-sig"):
        reading.notes.append(f"{path.name}: not UTF-8, read as {encoding}")
    if DELIMITERS[path.suffix.lower()] is None:
        _read_json(text, columns, reading)
    else:
        with _any_field_size():
            _read_table(text, path.suffix.lower(), columns, reading)
    return reading


def _read(path: Path, n_bytes: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise InputError(f"data: {str(path)!r} can not be read: {error.strerror}") from None


@contextmanager
def _any_field_size() -> Iterator[None]:
    before = csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB, process-wide
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(lines: Sequence[str], delimiter: str) -> tuple[int, list[str]]:
    """(columns with a name or not, the names without unnamed ones at the end)."""
    cells = [cell.strip() for cell in next(csv.reader(lines, delimiter=delimiter), [])]
    named = max((i + 1 for i, cell in enumerate(cells) if cell), default=0)
    return len(cells), cells[:named]


def _delimiter(lines: Sequence[str], suffix: str, columns: Columns) -> str:
    # By the header alone, which names the columns wanted: sniffing the rows is guesswork.
    candidates = DELIMITERS[suffix] or ()
    wanted = set(columns.names().values())
    for delimiter in candidates:
        if wanted <= set(_header(lines, delimiter)[1]):
            return delimiter
    return next((d for d in candidates if _header(lines, d)[0] > 1), candidates[0])


def _check_names(file: str, names: Sequence[str], columns: Columns) -> None:
    for setting, name in columns.names().items():
        if name not in names:
            rule = "the first line must name the columns"
            if DELIMITERS[Path(file).suffix.lower()] is None:
                rule = "each line must be a JSON object with the columns as keys"
            has = valid_choices(name, [n[:40] for n in names if n]) or "none at all"
            raise InputError(
                f"{setting} = {name!r}: {file} has no such column; it has: {has} ({rule})"
            )
        if list(names).count(name) > 1:
            raise InputError(f"{setting} = {name!r}: {file} has more than one column of that name")


def _read_table(text: str, suffix: str, columns: Columns, reading: Reading) -> None:
    lines = list(io.StringIO(text, newline=""))
    delimiter = _delimiter(lines, suffix, columns)
    width, names = _header(lines, delimiter)
    _check_names(reading.name, names, columns)
    at = {setting: names.index(name) for setting, name in columns.names().items()}
    text_is_last = at["text_column"] == len(names) - 1
    broken, empty, spilled = [], [], []
    for line, record in _records(lines, delimiter, reading):
        fields = record or []
        while len(fields) > width and not fields[-1].strip():
            fields.pop()
        if record is None or not len(names) <= len(fields) <= width:
            broken.append(line)
            continue
        body = fields[at["text_column"]]
        extra = fields[len(names) :]
        while extra and not extra[-1].strip():
            extra.pop()
        if extra:
            # A delimiter inside an unquoted text pushed its end into the unnamed columns behind it:
            # put it back. Behind any other column nobody can say where it belongs.
            spilled.append(line)
            body = delimiter.join([body, *extra]) if text_is_last else body
        label = fields[at["label_column"]].strip()
        if not body.strip() or not label:
            empty.append(line)
            continue
        split = fields[at["split_column"]].strip() if columns.split else ""
        reading.rows.append(Row(line, body, label, split))
    reading.note_rows("dropped, wrong number of columns or a quote that is not closed", broken)
    reading.note_rows("dropped, no text or no label", empty)
    what = "joined to the text" if text_is_last else "ignored"
    reading.note_rows(f"had more text in unnamed columns, {what}", spilled)


def _records(
    lines: list[str], delimiter: str, reading: Reading
) -> Iterator[tuple[int, list[str] | None]]:
    """(first line, cells) of each record below the header; None for one that can not be told apart.

    A stray quote within a line is part of the text. A record over several lines must be quoted as
    the rules say: otherwise a quote was left open and would swallow the rows after it.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
    if delimiter == "\t" and not _is_strict(lines, delimiter):
        quoting = csv.QUOTE_NONE  # most tab-separated files do not quote at all
        reading.notes.append(f"{reading.name}: quotes are not paired, read as ordinary characters")
    # As editors count: a lone \r ends a line only in a file that knows no other ends.
    ends = [line.endswith("\n") for line in lines]
    numbers = list(accumulate(ends, initial=1)) if any(ends) else range(1, len(lines) + 2)
    start, is_header = 0, True
    while start < len(lines):
        reader = csv.reader(lines[start:], delimiter=delimiter, quoting=quoting)
        first = begin = start
        start = len(lines)
        for fields in reader:
            last = begin + reader.line_num
            if last - first > 1 and not _is_strict(lines[first:last], delimiter):
                yield numbers[first], None
                start, is_header = first + 1, False
                break
            blank = not fields or (len(fields) == 1 and not fields[0].strip())
            if not is_header and not blank:
                yield numbers[first], fields
            first, is_header = last, False


def _is_strict(lines: list[str], delimiter: str) -> bool:
    try:
        for _ in csv.reader(lines, delimiter=delimiter, strict=True):
            pass
    except csv.Error:
        return False
    return True


def _json_keys(text: str) -> list[str]:
    names: dict[str, None] = {}
    for line in text.split("\n")[:100]:
        record = _json_object(line)
        names.update(dict.fromkeys(record or {}))
    return list(names)


def _json_object(line: str) -> dict[str, object] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _read_json(text: str, columns: Columns, reading: Reading) -> None:
    broken, empty = [], []
    keys: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut at U+2028
        if not line.strip():
            continue
        record = _json_object(line)
        if record is None:
            broken.append(number)
            continue
        keys.update(dict.fromkeys(record))
        cells = [_cell(record.get(name)) for name in columns.names().values()]
        if None in cells:
            broken.append(number)
        elif not cells[0].strip() or not cells[1].strip():  # type: ignore[union-attr]
            empty.append(number)
        else:
            body, label, *split = (cell or "" for cell in cells)
            reading.rows.append(Row(number, body, label.strip(), *(s.strip() for s in split)))
    if not reading.rows and not broken:
        _check_names(reading.name, list(keys), columns)
    reading.note_rows("dropped, not a JSON object with a text and a label", broken)
    reading.note_rows("dropped, no text or no label", empty)


def _cell(value: object) -> str | None:
    """A JSON value as text, "" for null or nothing, None for a list or an object."""
    if value is None or isinstance(value, str):
        return without_surrogates(value or "")
    return json.dumps(value) if isinstance(value, bool | int | float) else None
