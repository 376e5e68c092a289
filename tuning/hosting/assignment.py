"""What a host is told of a run, and what it tells of it: plain values, which travel anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainables.metrics import Direction
from trainables.task import TrainingRun
from tuning.hosting.node_needs import Needs
from tuning.record.events import TrialState
from tuning.storage.open_store import StoreAddress


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs for one run."""

    trial: int  # the run's number
    config: Mapping[str, Any]
    task: str | None
    train_file: str | None
    key: str  # the run's folder in the sweep's store
    store: StoreAddress  # how to reach that
    run: TrainingRun  # as the only worker that trains from the start has it
    metric: str
    mode: Direction
    cpus: float
    gpus: float
    seconds_between_checkpoints: float
    save_beyond: float | None = None  # a checkpoint not better than this would be deleted at once
    save_after: Sequence[int] = ()  # epochs after which the run may be frozen
    evaluates: str | None = None  # the key of a checkpoint to measure on the test split, once
    other_metrics: tuple[str, ...] = ()  # of further objectives
    # What the driver's machine has, and a worker's on another must have too. None: it is the same.
    needs: Needs | None = None
    is_new: bool = False  # no process has run it before

    @property
    def compared_by(self) -> tuple[str, ...]:
        """The metrics that each report must have."""
        return () if self.evaluates is not None else (self.metric, *self.other_metrics)


@dataclass(frozen=True)
class EpochResult:
    """One epoch of a run, as the engine hears of it."""

    epoch: int
    metrics: Mapping[str, float]
    note: str | None = None  # what went wrong without ending the run
    tags: Mapping[str, str] = field(default_factory=dict)  # said of the run as a whole so far


@dataclass(frozen=True)
class Outcome:
    """How a run ended; ``interrupted``: it can not be done where it is, and has not begun."""

    state: TrialState
    error: str | None = None
    out_of_memory: bool = False


@dataclass(frozen=True)
class Place:
    """Which of the workers that train together this is."""

    rank: int = 0
    world_size: int = 1
    device: str | None = None  # the worker's own; None: as the assignment says
    # (what rank 0 has decided; of others it does not matter) -> that, once every worker is here
    share: Callable[[Any], Any] = lambda decision: decision
