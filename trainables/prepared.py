"""Prepared data: memory-mapped splits, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, device

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataInfo:
    """What must be known of the data to treat a new input the same way. JSON all the way down."""

    classes: tuple[str, ...] = ()  # names in the order of the model's outputs, where it has classes
    notes: tuple[str, ...] = ()  # what was skipped or repaired, for a person to read
    # What modality and target need: normalisation, tokens, the scale of a number …
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""  # of the content of all splits
    summary: str = ""  # what is predicted, for a person: "10 classes"

    @property
    def n_outputs(self) -> int:
        """Of a model for each item: one for each class, or one number."""
        return len(self.classes) or 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataInfo:
        return cls(
            **{**values, "classes": tuple(values["classes"]), "notes": tuple(values["notes"])}
        )


@dataclass(frozen=True)
class Ragged:
    """Arrays of different lengths, one per sample, in one: the boxes of an image, say.

    ``values`` [all together, ...] holds them one behind the other; sample i has those from
    ``starts[i]`` to ``starts[i + 1]``, so ``starts`` is int64 [n + 1].
    """

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> Ragged:
        """``arrays`` [n_i, ...] in one; there must be at least one, to know its shape and type."""
        starts = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int64)
        return cls(np.concatenate(arrays), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, sample: int) -> np.ndarray:
        """The array of one sample [n_i, ...]."""
        return self.values[self.starts[sample] : self.starts[sample + 1]]


Array = np.ndarray | Ragged
Batch = dict[str, Any]  # of tensors [n, ...]; of lists of n tensors where the array is ragged


@dataclass(frozen=True)
class Split:
    """Named arrays whose first axis counts samples: inputs and labels alike."""

    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))


@dataclass(frozen=True)
class PreparedData:
    """Memory-mapped splits, what is known of them, and a folder of their files (a tokenizer)."""

    info: DataInfo
    splits: Mapping[str, Split]
    assets: Path


def gather(arrays: Mapping[str, Array], indices: np.ndarray, device: device) -> Batch:
    """The samples ``indices`` of each array, copied out of the memory map to ``device``."""
    return {name: _rows(array, indices, device) for name, array in arrays.items()}


def _rows(array: Array, indices: np.ndarray, device: device) -> Tensor | list[Tensor]:
    import torch

    if isinstance(array, Ragged):
        own = (np.array(array[index]) for index in indices)
        return [torch.from_numpy(each).to(device, non_blocking=True) for each in own]
    return torch.from_numpy(array[indices]).to(device, non_blocking=True)
