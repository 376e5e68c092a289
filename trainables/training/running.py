"""The moving parts of one training, and what of them trains in an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.adapting.freezing import (
    n_frozen_blocks,
    parts,
    set_training_mode,
    thaw,
    trainable,
)
from trainables.adapting.frozen_prefix import FrozenPrefix, freeze_prefix
from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.prepared import PreparedData
from trainables.strategies import Part
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


def thaw_for(training: Training, epoch: int) -> None:
    """Let what ``epoch`` trains get gradients, and put the rest in eval mode."""
    model_parts = list(parts(training.model, training.blocks))
    now = trainable(training.config, model_parts, epoch)
    if now != training.trainable:
        thaw(training.model, now)
        _freeze_below(training, model_parts, epoch)
        training.replica = training.parallel.replicate(training.model, training.device)
        training.trainable = now
    training.replica.train()
    set_training_mode(training.model, training.blocks, now)


def _freeze_below(training: Training, model_parts: Sequence[Part], epoch: int) -> None:
    """Take what the blocks give below the lowest that trains from the prefix cache, if it pays."""
    config, blocks = training.config, training.blocks
    phase = range(epoch, config.epochs)
    frozen = [n_frozen_blocks(config, model_parts, len(blocks), e) for e in phase]
    if training.prefix is not None:
        training.seconds_saved += training.prefix.seconds_saved
    training.prefix, reason = freeze_prefix(
        training.task,
        training.model,
        blocks,
        frozen[0],
        config,
        training.run,
        training.data,
        frozen.count(frozen[0]),
    )
    if reason is None:
        training.prefix_note = f"used below block {blocks[frozen[0]].name}"
    elif not training.prefix_note or (
        frozen[0] > 0 and not training.prefix_note.startswith("used")
    ):  # where all blocks train, what was said of an earlier phase still holds
        training.prefix_note = f"not used: {reason}"


def prefix_tags(training: Training) -> dict[str, str]:
    """What is said of the prefix cache so far."""
    prefix = training.prefix
    saved = training.seconds_saved + (0.0 if prefix is None else prefix.seconds_saved)
    return {
        "prefix_cache": training.prefix_note,
        "prefix_cache_seconds_saved": f"{saved:.2f}",
    }
