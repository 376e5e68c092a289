"""What a strategy comes to in a model: which parameters get gradients, and which modules train.

Frozen blocks get no gradient and run in eval mode: no dropout, batch-norm statistics fixed. What
they output for a given input therefore never changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.strategies import Kind, Part, strategy_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def parts(model: nn.Module, blocks: Sequence[Block]) -> Iterator[Part]:
    """Every parameter of ``model`` as a strategy sees it."""
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        index = next(i for i, block in enumerate(blocks) if block.holds(name))
        owner, _, own_name = name.rpartition(".")
        kinds = " ".join(each.__name__ for each in type(modules[owner]).__mro__)
        kind: Kind = "weight"
        if ".lora_" in name:  # how peft names what it adds
            kind = "adapter"
        elif parameter.ndim == 1 and "norm" in kinds.lower():
            kind = "norm"
        elif own_name == "bias" or own_name.endswith("_bias"):
            kind = "bias"
        yield Part(name, index, len(blocks), kind)


def trainable(
    config: TrainingConfig, model_parts: Iterable[Part], epoch: int | None = None
) -> frozenset[str]:
    """Names of the parameters that train in ``epoch``, counted from 0; None: in any.

    Every strategy only ever thaws, so what trains in any epoch trains in the last.
    """
    trains = strategy_of(config).trains
    when = config.epochs - 1 if epoch is None else epoch
    return frozenset(part.name for part in model_parts if trains(config, part, when))


def n_frozen_blocks(
    config: TrainingConfig, model_parts: Iterable[Part], n_blocks: int, epoch: int
) -> int:
    """How many of the lowest blocks hold nothing that trains in ``epoch``."""
    trains = strategy_of(config).trains
    blocks = (part.block for part in model_parts if trains(config, part, epoch))
    return min(blocks, default=n_blocks)


def thaw(model: nn.Module, names: Collection[str]) -> None:
    """Give gradients to the parameters ``names``, and to no other."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        if name not in names:
            parameter.grad = None


def set_training_mode(model: nn.Module, blocks: Sequence[Block], names: Collection[str]) -> None:
    """Put blocks in training mode where one of the parameters ``names`` is, the others in eval.

    In a block that trains in part, running statistics change only where the parameters beside them
    train: what an adapter was put on stays as it was.
    """
    model.train()
    for block in blocks:
        are_training = [name in names for name, _ in block.parameters(model)]
        if not any(are_training):
            for module in block.modules(model):
                module.eval()
        elif not all(are_training):
            for path, module in model.named_modules():
                if block.holds(path) and getattr(module, "running_mean", None) is not None:
                    own = (name for name, _ in module.named_parameters(recurse=False))
                    module.train(any(f"{path}.{name}" in names for name in own))


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A digest of tensors by name: of names, types, shapes and every value."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()
