"""Sentences with a tag for each word: CoNLL columns, or lists in JSONL and Parquet files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from trainables.data.paths import read_bytes
from trainables.data.records import Reading, Record, texts
from trainables.data.tables import LISTS, check_columns, read_records, read_text
from trainables.data.text_encoding import decode
from trainables.errors import InputError

WORDS, TAGS = "words_column", "tags_column"  # the settings that a record has its values by
SENTENCES = (
    *(".conll", ".bio", ".iob", ".iob2", ".bioes", ".txt", ".tsv"),
    *(".train", ".dev", ".test", ".testa", ".testb", ".annotated"),  # eng.testa, as CoNLL's own
    *LISTS,
)
_HEAD_BYTES = 1 << 16
# B begins an entity, I is inside, E and L are its last word, S and U its only one.
_PREFIXED = re.compile(r"([BIESLU])-(.+)")


def check_sentences(
    path: Path, columns: Mapping[str, str], word_position: int = 0, tag_position: int = -1
) -> None:
    """Look for words with tags in the head of a file.

    Args:
        columns: which lists of a JSON object or Parquet row are the words and the tags.
        word_position, tag_position: which columns of a line are; -1 is the last.

    Raises:
        InputError: the file can not be read, has none, or not so many columns.
    """
    if path.suffix.lower() in LISTS:
        check_columns(path, columns)
        return
    content, _ = decode(read_bytes(path, _HEAD_BYTES), path.name, errors="replace")
    width = _width([_cells(line) for line in content.splitlines()])
    if width == 0:
        raise InputError(
            f"data: {path.name} has no word with a tag; each line must be a word and its tag,"
            " separated by a tab or spaces, with a blank line after each sentence"
        )
    _check_positions(path.name, width, word_position, tag_position)


def _check_positions(name: str, width: int, word_position: int, tag_position: int) -> None:
    columns = f"the lines of {name} have {width} columns"
    for setting, position in (("word_position", word_position), ("tag_position", tag_position)):
        if not -width <= position < width:
            raise InputError(
                f"{setting} = {position}: must be from {-width} to {width - 1}; {columns}"
            )
    if word_position % width == tag_position % width:
        raise InputError(
            f"tag_position = {tag_position}: must not be the word_position too; {columns}"
        )


def _width(lines: Sequence[list[str]]) -> int:
    """How many columns most lines with more than one have; 0 if there are none."""
    widths = Counter(len(cells) for cells in lines if len(cells) > 1)
    return max(widths, key=widths.__getitem__, default=0)


def read_sentences(
    path: Path, columns: Mapping[str, str], word_position: int = 0, tag_position: int = -1
) -> Reading:
    """Records of ``words_column`` and ``tags_column``, lists of one length; the tags are IOB2.

    Tags are taken for IOB1, IOB2 or BIOES (BILOU), whichever they are; tags of which none begins
    with such a letter and a hyphen, parts of speech say, stay as they are. A sentence with a
    damaged line is dropped.

    Args:
        columns: which lists of a JSON object or Parquet row are the words and the tags.
        word_position, tag_position: which columns of a line are; -1 is the last.

    Raises:
        InputError: the file can not be read, is not text, or has not so many columns.
    """
    if path.suffix.lower() in LISTS:
        reading = read_records(path, columns, {WORDS: texts, TAGS: texts})
        uneven = [each.line for each in reading.records if len(each[WORDS]) != len(each[TAGS])]
        reading.note_rows("dropped, not as many tags as words", uneven)
        reading.records = [each for each in reading.records if each.line not in set(uneven)]
    else:
        reading = Reading(path.name)
        _read_columns(read_text(path, reading), word_position, tag_position, reading)
    _convert(reading)
    return reading


def _cells(line: str) -> list[str]:
    """None of a blank line. Where tabs separate, a word may hold spaces."""
    return line.split("\t") if "\t" in line.rstrip() else line.split()


def _read_columns(content: str, word_position: int, tag_position: int, reading: Reading) -> None:
    lines = [_cells(line) for line in content.split("\n")]
    width = _width(lines)
    if width:
        _check_positions(reading.name, width, word_position, tag_position)
    broken = []
    for first, sentence in _sentences(lines):
        # "# text" is a comment where it has other columns than words have; in tweets "#" is a word.
        used = [cells for cells in sentence if len(cells) == width or cells[0] != "#"]
        used = [cells for cells in used if cells[0] != "-DOCSTART-"]
        if any(len(cells) != width for cells in used):
            broken.append(first)
        elif used:
            words = [cells[word_position] for cells in used]
            tags = [cells[tag_position].strip() for cells in used]
            reading.records.append(Record(first, {WORDS: words, TAGS: tags}))
    reading.note_rows(
        f"dropped, a line of it has not the {width} columns of others", broken, "sentence"
    )


def _sentences(lines: Sequence[list[str]]) -> Iterator[tuple[int, Sequence[list[str]]]]:
    """(number of the first line, lines) between blank lines."""
    blank = [-1, *(i for i, cells in enumerate(lines) if not cells), len(lines)]
    for before, after in pairwise(blank):
        if after - before > 1:
            yield before + 2, lines[before + 1 : after]


def _convert(reading: Reading) -> None:
    matches = {tag: _PREFIXED.fullmatch(tag) for each in reading.records for tag in each[TAGS]}
    prefixes = {match[1] for match in matches.values() if match}
    strange = {tag for tag, match in matches.items() if match is None and tag != "O"}
    if not prefixes:
        if strange:
            reading.note("its tags have no B- or I-, each is taken as a class of its own")
        return
    scheme = "BIOES" if prefixes & set("ES") else "BILOU" if prefixes & set("LU") else "IOB1"
    kept, dropped, converted = [], [], []
    for record in reading.records:
        tags = iob2(record[TAGS])
        if not strange.isdisjoint(record[TAGS]):
            dropped.append(record.line)
            continue
        if tags != record[TAGS]:
            converted.append(record.line)
        kept.append(Record(record.line, {**record.values, TAGS: tags}))
    reading.records = kept
    example = min(strange, default="")
    reading.note_rows(f"dropped, {example!r} is no tag like B-…, I-… or O", dropped, "sentence")
    reading.note_rows(f"with tags in {scheme}, converted to IOB2", converted, "sentence")


def iob2(tags: Sequence[str]) -> list[str]:
    """Tags in IOB1, IOB2, BIOES or BILOU as IOB2: each entity begins with B and goes on with I.

    An entity begins where its tag says so, after another type, and after an end, as in the scoring
    script of CoNLL-2000 (conlleval), whatever the scheme.
    """
    converted, ended, before = [], True, ""
    for tag in tags:
        match = _PREFIXED.fullmatch(tag)
        prefix, kind = match.groups() if match else ("O", "")
        begins = prefix in "BSU" or ended or kind != before
        converted.append(f"{'B' if begins else 'I'}-{kind}" if match else "O")
        ended, before = prefix in "OESLU", kind
    return converted
