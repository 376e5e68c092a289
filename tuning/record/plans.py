"""Which runs follow the trials: what is decided once, so that a later sitting keeps to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ConfirmationPlan:
    """Which trials are run again, each with which seeds."""

    candidates: list[int]
    seeds: list[int]


@dataclass(frozen=True)
class RetrainingPlan:
    """What is trained anew for a champion."""

    key: str  # of all that it leaves, in the sweep's store
    number: int  # the trial whose configuration is trained
    seeds: list[int]
    n_workers: int  # that train together
    default: dict[str, Any] | None  # a configuration that is trained with the same seeds
    first_number: int  # of its runs, which are numbered without gaps
