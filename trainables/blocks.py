"""A model seen as named, ordered slices, from its input to its head."""

from __future__ import annotations

from collections.abc import Iterator
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
