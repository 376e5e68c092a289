"""Records, as every reader gives them, and what it says of the rows that it could not use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.data.text_encoding import without_surrogates


@dataclass(frozen=True, slots=True)
class Record:
    """One example: the value of each column, by the setting that names the column.

    ``line`` is where it begins in its file, counted from 1; in a Parquet file, its row.
    """

    line: int
    values: Mapping[str, Any]

    def __getitem__(self, setting: str) -> Any:
        return self.values[setting]


@dataclass
class Reading:
    """The usable records of a file, and what was skipped or repaired, for a person to read."""

    name: str
    records: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Say something of the file."""
        self.notes.append(f"{self.name}: {what}")

    def note_rows(self, what: str, lines: Sequence[int], row: str = "row") -> None:
        """Say how many rows ``what`` happened to and where; nothing if to none."""
        if lines:
            shown = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
            s = "s" if len(lines) > 1 else ""
            self.note(f"{len(lines)} {row}{s} {what} (line{s} {shown})")


def column_word(setting: str) -> str:
    """What a column holds, as the notes call it: ``text`` for ``text_column``."""
    return setting.removesuffix("_column")


# What a value is turned into; raises ValueError, which says why it can not be.
Kind = Callable[[Any], Any]


def text(value: Any) -> str:
    """Text as it is; numbers and truth values as JSON writes them."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"a {type(value).__name__} is not a text")
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


def label(value: Any) -> str:
    """The name of a class: text without the white space around it."""
    return text(value).strip()


def number(value: Any) -> float:
    """A finite number, which may be written as text."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{str(value)[:20]!r} is not a number")
    return found


def texts(value: Any) -> list[str]:
    """A list of texts, such as tokens or sentences."""
    if not isinstance(value, list):
        raise ValueError(f"{str(value)[:20]!r} is not a list")
    return [text(each) for each in value]


def file_beside(table: Path) -> Kind:
    """The kind of a column of file names, which are relative to the folder of ``table``."""

    def file(value: Any) -> Path:
        path = table.parent / text(value)
        try:
            is_file = path.is_file()
        except OSError:  # a name too long for a file
            is_file = False
        if not is_file:
            raise ValueError(f"{text(value)[:200]!r} is no file")
        return path

    return file
