"""What is predicted of an input, apart from what the input is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.data.records import Kind, Reading
from trainables.data.splits import Splits, columns_of, read_splits
from trainables.data.tables import read_records
from trainables.prepared import Array, Batch, DataInfo
from trainables.task import Evaluation, Meter, Trained

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """What is to be predicted, of all samples: arrays by split and name, and what is known of them.

    The other fields are for ``DataInfo``.
    """

    labels: Mapping[str, Mapping[str, Array]]
    summary: str
    classes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerColumn:
    """The column of a table that has what is predicted."""

    setting: str  # the one that holds the column's name
    kind: Kind  # what its values are turned into
    answers: Callable[[Splits, Any], Answers]
    stratify: bool = False  # whether each split that is cut has the same share of each answer

    def read(
        self,
        config: Any,
        files: Mapping[str, Path],
        inputs: str,
        kind_in: Callable[[Path], Kind],
    ) -> tuple[Splits, list[str]]:
        """The records of each split, with this column, and notes for a person.

        Args:
            inputs: the setting that holds the name of the column of inputs.
            kind_in: what the inputs in a file are turned into.

        Raises:
            InputError: as ``read_splits``.
        """

        def read_file(path: Path) -> Reading:
            kinds = {inputs: kind_in(path), self.setting: self.kind}
            return read_records(path, columns_of(config), kinds)

        return read_splits(config, files, read_file, inputs, self.setting, self.stratify)


@dataclass(frozen=True)
class Target:
    """The half of a ``Task`` that follows from what is predicted; its fields are as there."""

    loss: Callable[[Any, Batch, Any], Tensor]
    meter: Callable[[DataInfo], Meter]
    decode: Callable[[Any, Batch, Sequence[Any], Trained], list[dict[str, Any]]]
    answer: Mapping[str, Any]  # an example of a decoded row
    artifacts: Callable[[Evaluation, Trained], dict[str, Any]] | None = None
