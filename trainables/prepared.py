"""Prepared data: memory-mapped splits, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, device


SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataInfo:
    """What must be known of the data to treat a new input the same way. JSON all the way down."""

    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was skipped or repaired, for a person to read
    details: Mapping[str, Any] = field(
        default_factory=dict
    )  # the task's own: normalisation, columns …
    fingerprint: str = ""  # of the content of all splits

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataInfo:
        return cls(
            tuple(values["classes"]),
            tuple(values["notes"]),
            values["details"],
            values["fingerprint"],
        )


@dataclass(frozen=True)
class Split:
    """Named arrays whose first axis counts samples, and the class index of each sample [n]."""

    inputs: Mapping[str, np.ndarray]
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class PreparedData:
    """Memory-mapped splits, what is known of them, and a folder of their files (a tokenizer)."""

    info: DataInfo
    splits: Mapping[str, Split]
    assets: Path


def rows(array: np.ndarray, indices: np.ndarray, device: device) -> Tensor:
    """The rows ``indices`` of ``array``, copied out of the memory map to ``device``."""
    import torch

    return torch.from_numpy(array[indices]).to(device, non_blocking=True)


def gather(
    arrays: Mapping[str, np.ndarray], indices: np.ndarray, device: device
) -> dict[str, Tensor]:
    """``rows`` of each array."""
    return {name: rows(array, indices, device) for name, array in arrays.items()}
