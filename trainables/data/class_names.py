"""The classes of labelled records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.data.records import Record
from trainables.errors import InputError


def class_names(
    splits: Mapping[str, Sequence[Record]], config: Any, setting: str = "label_column"
) -> tuple[str, ...]:
    """The labels of the training split, sorted; by number if all are whole numbers.

    Raises:
        InputError: there are fewer than two, or another split has one that training has not.
    """
    counts = Counter(record[setting] for record in splits["train"])
    where = f"{setting} = {getattr(config, setting)!r}"
    for split in ("val", "test"):
        strange = next((each for each in splits[split] if each[setting] not in counts), None)
        if strange is not None:
            raise InputError(
                f"{where}: label {strange[setting]!r} (line {strange.line} of the {split} split)"
                " occurs in no row of the training split"
            )
    if len(counts) < 2:
        raise InputError(
            f"{where}: needs at least 2 classes, and the training split has only "
            f"{', '.join(map(repr, counts))}"
        )
    try:
        return tuple(sorted(counts, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(counts))
