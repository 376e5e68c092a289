"""Freezing strategies: which blocks train, and from which epoch.

Frozen blocks get no gradient and run in eval mode: no dropout, batch-norm statistics fixed. What
they output for a given input therefore never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def _gradual(config: TrainingConfig, n_blocks: int, epoch: int) -> range:
    """From the top, one block more every n epochs (ULMFiT, arXiv:1801.06146, section 3.3)."""
    thawed = 1 + epoch // (config.thaw_every_epochs or 1)
    return range(max(n_blocks - thawed, 0), n_blocks)


def _head_then_all(config: TrainingConfig, n_blocks: int, epoch: int) -> range:
    """The head alone, then all, which distorts what was learned less (LP-FT, arXiv:2202.10054)."""
    return range(n_blocks - 1 if epoch < (config.head_epochs or 1) else 0, n_blocks)


# name -> (config, number of blocks, epoch counted from 0) -> indices of the blocks that train then
STRATEGIES: dict[str, Callable[[TrainingConfig, int, int], range]] = {
    "none": lambda config, n_blocks, epoch: range(n_blocks),
    "head": lambda config, n_blocks, epoch: range(n_blocks - 1, n_blocks),
    "first_k": lambda config, n_blocks, epoch: range(config.frozen_blocks or 0, n_blocks),
    "gradual": _gradual,
    "lp_ft": _head_then_all,
}


def trainable_blocks(config: TrainingConfig, n_blocks: int, epoch: int) -> range:
    """Indices of the blocks that train in ``epoch``, counted from 0."""
    return STRATEGIES[config.freezing](config, n_blocks, epoch)


def ever_trainable_blocks(config: TrainingConfig, n_blocks: int) -> range:
    """Indices of the blocks that train in any epoch: every strategy here only ever thaws."""
    return trainable_blocks(config, n_blocks, config.epochs - 1)


def check_frozen_blocks(config: TrainingConfig, block_names: Sequence[str]) -> None:
    """Raise InputError unless freezing the first k blocks leaves one to train."""
    k = config.frozen_blocks
    if k is not None and k >= len(block_names):
        raise InputError(
            f"frozen_blocks = {k}: must be from 1 to {len(block_names) - 1}, because "
            f"{config.model} has {len(block_names)} blocks ({', '.join(block_names)}) "
            "and the last one has to train"
        )


def thaw(model: nn.Module, blocks: Sequence[Block], trainable: range) -> None:
    """Give gradients to the parameters of the ``trainable`` blocks, and to no other."""
    for index, block in enumerate(blocks):
        for _, parameter in block.parameters(model):
            parameter.requires_grad_(index in trainable)
            if index not in trainable:
                parameter.grad = None


def set_training_mode(model: nn.Module, blocks: Sequence[Block], trainable: range) -> None:
    """Put the trainable blocks in training mode and the frozen ones in eval mode."""
    model.train()
    for index, block in enumerate(blocks):
        if index not in trainable:
            for module in block.modules(model):
                module.eval()
