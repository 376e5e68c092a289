"""What is predicted of an input, apart from what the input is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainables.data.records import Kind
from trainables.data.splits import Splits
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

    setting: str  # that names it
    kind: Kind  # what its values are turned into
    answers: Callable[[Splits, Any], Answers]
    stratify: bool = False  # cut missing splits in the same proportions of each answer


@dataclass(frozen=True)
class Target:
    """The half of a ``Task`` that follows from what is predicted; its fields are as there."""

    loss: Callable[[Any, Batch, Any], Tensor]
    meter: Callable[[DataInfo], Meter]
    decode: Callable[[Any, Batch, Sequence[Any], Trained], list[dict[str, Any]]]
    answer: Mapping[str, Any]  # an example of a decoded row
    artifacts: Callable[[Evaluation, Trained], dict[str, Any]] | None = None
