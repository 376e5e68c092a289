"""A model seen as named, ordered slices, from its input to its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Block:
    """A named slice of a model: dotted paths of the modules or bare parameters that are in it."""

    name: str
    paths: tuple[str, ...]

    def modules(self, model: nn.Module) -> Iterator[nn.Module]:
        """The modules at this block's paths, without their children."""
        named = dict(model.named_modules())
        return (named[path] for path in self.paths if path in named)

    def parameters(self, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """(dotted name, parameter) of everything below this block's paths."""
        for name, parameter in model.named_parameters():
            if self.holds(name):
                yield name, parameter

    def holds(self, name: str) -> bool:
        """Whether the module, parameter or buffer of that dotted name is part of this block."""
        return any(name == path or name.startswith(f"{path}.") for path in self.paths)


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
