"""What must hold of the blocks of any model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from trainables.blocks import Block


def check_blocks(model: nn.Module, blocks: Sequence[Block]) -> None:
    """Check that ``blocks`` divide ``model`` among them.

    Raises:
        ValueError: a parameter is in none or several of them, or one of them is empty.
    """
    owners: dict[str, list[str]] = {name: [] for name, _ in model.named_parameters()}
    for block in blocks:
        names = [name for name, _ in block.parameters(model)]
        if not names:
            raise ValueError(f"block {block.name} holds no parameter; its paths are {block.paths}")
        for name in names:
            owners[name].append(block.name)
    wrong = {name: found for name, found in owners.items() if len(found) != 1}
    if wrong:
        raise ValueError(f"parameters in no block or in several: {wrong}")
