"""The moving parts of one training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.adapting.frozen_prefix import FrozenPrefix
from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.prepared import PreparedData
from trainables.task import Task, TrainingRun
from trainables.training.parallel import Parallelism


@dataclass
class Training:
    """The moving parts of one training."""

    task: Task
    config: TrainingConfig
    run: TrainingRun
    data: PreparedData
    model: nn.Module
    blocks: tuple[Block, ...]
    base: str | None  # of ``BuiltModel``
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    micro_batch_size: int
    parallel: Parallelism
    replica: nn.Module  # the model as it is run in training
    units: np.ndarray  # how often each training sample counts in the loss [n]
    trainable: frozenset[str] = frozenset()  # names of the parameters that train now
    prefix: FrozenPrefix | None = None  # of the blocks that are frozen now
    prefix_note: str = ""  # whether the prefix cache was used, and why not
    seconds_saved: float = 0.0  # by the prefix cache, in earlier phases
    epochs_done: int = 0
    history: dict[str, Any] = field(default_factory=lambda: {"best": None, "epochs_since_best": 0})

    @property
    def device(self) -> torch.device:
        return torch.device(self.run.device)
