"""The rows of CSV and TSV files: which delimiter, which rows are damaged, where each begins.

The standard library parses them. Tried on a quote that nothing closes, pandas and pyarrow join all
rows up to the next quote or lose them, say nothing, and know no row's line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Literal

from trainables.data.records import Reading

# What may separate columns, by suffix, likeliest first.
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".txt": "\t,;|"}


class Delimited:
    """A table as text.

    Attributes:
        names: of the columns, without unnamed ones at the end.
        width: number of columns, unnamed ones included.
    """

    def __init__(self, content: str, suffix: str, wanted: Collection[str]) -> None:
        # The header alone tells the delimiter, by the columns ``wanted``: sniffing the rows is
        # guesswork.
        self._lines = list(io.StringIO(content, newline=""))
        found = []
        for delimiter in DELIMITERS[suffix]:
            with _any_field_size():
                header = next(csv.reader(self._lines, delimiter=delimiter), [])
            cells = [cell.strip() for cell in header]
            n_named = max((i + 1 for i, cell in enumerate(cells) if cell), default=0)
            found.append((delimiter, cells[:n_named], len(cells)))
        self.delimiter, self.names, self.width = max(
            found, key=lambda each: (set(wanted) <= set(each[1]), each[2] > 1)
        )

    def rows(self, reading: Reading, text_is_last: bool) -> Iterator[tuple[int, list[str]]]:
        """(first line, a cell for each of ``names``) of each row below the header."""
        n_named = len(self.names)
        broken, spilled = [], []
        for line, cells in self._rows(reading):
            while len(cells) > n_named and not cells[-1].strip():
                cells.pop()
            if not n_named <= len(cells) <= self.width:
                broken.append(line)
                continue
            if len(cells) > n_named:
                # A delimiter inside an unquoted text pushed its end into the unnamed columns behind
                # it: put it back. Behind any other column nobody can say where it belongs.
                spilled.append(line)
                if text_is_last:
                    cells[n_named - 1] = self.delimiter.join(cells[n_named - 1 :])
            yield line, cells[:n_named]
        reading.note_rows("dropped, wrong number of columns or a quote that is not closed", broken)
        what = "joined to the text" if text_is_last else "ignored"
        reading.note_rows(f"had more text in unnamed columns, {what}", spilled)

    def _rows(self, reading: Reading) -> Iterator[tuple[int, list[str]]]:
        """(first line, cells) of each row; no cells where they can not be told apart.

        A stray quote within a line is part of the text. A row over several lines must be quoted as
        the rules say: otherwise a quote was left open and would swallow the rows after it.
        """
        lines = self._lines
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
        if self.delimiter == "\t" and not self._is_strict(lines):
            quoting = csv.QUOTE_NONE  # most tab-separated files do not quote at all
            reading.note("quotes are not paired, read as ordinary characters")
        # As editors count: a lone \r ends a line only in a file that knows no other ends.
        ends = [line.endswith("\n") for line in lines]
        numbers = list(accumulate(ends, initial=1)) if any(ends) else range(1, len(lines) + 2)
        first = following = 0

        def feed() -> Iterator[str]:
            nonlocal following
            while following < len(lines):
                following += 1
                yield lines[following - 1]

        with _any_field_size():
            while first < len(lines):
                for cells in csv.reader(feed(), delimiter=self.delimiter, quoting=quoting):
                    if following - first > 1 and not self._is_strict(lines[first:following]):
                        following = first + 1
                        yield numbers[first], []
                    elif first > 0 and cells and (len(cells) > 1 or cells[0].strip()):
                        yield numbers[first], cells
                    first = following

    def _is_strict(self, lines: list[str]) -> bool:
        try:
            with _any_field_size():
                for _ in csv.reader(lines, delimiter=self.delimiter, strict=True):
                    pass
        except csv.Error:
            return False
        return True


@contextmanager
def _any_field_size() -> Iterator[None]:
    before = csv.field_size_limit(2**31 - 1)  # the module's own limit is 128 KiB, process-wide
    try:
        yield
    finally:
        csv.field_size_limit(before)
