"""An image model cut in two between its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from trainables.adapting import cut as cutting
from trainables.adapting.cut import Forward, Inputs
from trainables.modalities.images.blocks import blocks
from trainables.task import Cut

if TYPE_CHECKING:
    from trainables.modalities.images.config import ImageConfig

Transform = Callable[[Inputs, Generator | None], Inputs]


def cut(
    model: nn.Module,
    k: int,
    config: ImageConfig,
    transform: Transform,
    forward: Forward,
) -> Cut | None:
    """Cut before block ``k``; None if more than one tensor crosses there, or none of the images."""
    frozen, late = blocks(model)[:k], blocks(model)[k:]
    device: Any = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, config.image_size, config.image_size, generator=generator).to(device)
    parts = cutting.cut(model, frozen, late, forward, {"image": noise[:1]})
    if parts is None:
        return None
    unseen = {"image": torch.zeros_like(noise[:1])}  # nothing of an image reaches the suffix

    def prefix(raw: Inputs, group: int, generators: Sequence[Generator] | None) -> Tensor:
        return parts.prefix(_inputs(raw, generators, transform))

    def suffix(activations: Tensor, raw: Inputs | None) -> Any:
        return parts.suffix(activations, unseen)

    both = {"image": noise}
    if not cutting.is_whole(model, forward, both, lambda: suffix(parts.prefix(both), None)):
        return None
    modules = [str(module) for block in frozen for module in block.modules(model)]
    settings = (config.model, config.stem, config.image_size, config.weights == "none")
    return Cut(
        identity=f"{settings} {late[0].paths} {modules}",
        groups=_one_group,
        prefix=prefix,
        suffix=suffix,
        suffix_needs_inputs=False,
    )


def _inputs(raw: Inputs, generators: Sequence[Generator] | None, transform: Transform) -> Inputs:
    if generators is None:
        return transform(raw, None)
    # One by one: the changes to an image then never depend on which others are with it.
    singles = [
        transform({"image": raw["image"][i : i + 1]}, generator)["image"]
        for i, generator in enumerate(generators)
    ]
    return {"image": torch.cat(singles)}


def _one_group(inputs: Mapping[str, Any]) -> np.ndarray:
    """All images of a split are of one size."""
    return np.zeros(len(inputs["image"]), dtype=np.int64)
