"""Optimisers, parameter groups and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from trainables.adapting.freezing import parts, trainable
from trainables.blocks import Block
from trainables.config import TrainingConfig

# `fused` is one kernel for all parameters, on the CPU as well.
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainingConfig], torch.optim.Optimizer]] = {
    "adamw": lambda groups, config: torch.optim.AdamW(groups, lr=config.learning_rate, fused=True),
    "sgd": lambda groups, config: torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=config.momentum, fused=not _is_sharded(groups)
    ),
}

# share of the decaying part that is done, in [0, 1] -> factor on the learning rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


def _is_sharded(groups: list[dict[str, Any]]) -> bool:
    """Whether workers share the parameters: torch 2.15 has no fused SGD for that."""
    return any(hasattr(each, "device_mesh") for group in groups for each in group["params"])


def parameter_groups(
    model: nn.Module, blocks: Sequence[Block], config: TrainingConfig
) -> list[dict[str, Any]]:
    """What ever trains, in groups by block, each with its learning rate under ``layer_decay``.

    Norms and biases, the parameters of one dimension, get no weight decay.
    """
    names = trainable(config, parts(model, blocks))
    groups = []
    for index, block in enumerate(blocks):
        parameters = [each for name, each in block.parameters(model) if name in names]
        learning_rate = config.learning_rate * config.layer_decay ** (len(blocks) - 1 - index)
        for decays in (True, False):
            members = [parameter for parameter in parameters if (parameter.ndim > 1) == decays]
            if members:
                weight_decay = config.weight_decay if decays else 0.0
                groups.append(
                    {"params": members, "lr": learning_rate, "weight_decay": weight_decay}
                )
    return groups


def make_optimizer(
    model: nn.Module, blocks: Sequence[Block], config: TrainingConfig
) -> torch.optim.Optimizer:
    """The configured optimiser over what ever trains."""
    return OPTIMIZERS[config.optimizer](parameter_groups(model, blocks, config), config)


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, n_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over ``warmup_fraction`` of ``n_steps``, then the configured decay to zero."""
    n_warmup = round(n_steps * config.warmup_fraction)
    decay = SCHEDULES[config.schedule]

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / (n_warmup + 1)
        return decay((step - n_warmup) / max(n_steps - n_warmup, 1))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
