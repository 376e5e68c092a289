"""Tasks whose inputs are images: all of a ``Task`` but its data and its target."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from trainables.adapting import cut as cutting
from trainables.errors import InputError
from trainables.modalities.images.augment import augment
from trainables.modalities.images.backbones import build
from trainables.modalities.images.blocks import blocks
from trainables.modalities.images.decode import encode
from trainables.task import Column, Cut, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from trainables.modalities.images.config import ImageConfig
    from trainables.prepared import Batch, DataInfo, PreparedData
    from trainables.targets.target import Target


def image_task(name: str, prepare: Callable[[Any, Path], PreparedData], target: Target) -> Task:
    """The task ``name``: any backbone, on images as ``prepare`` finds them, with ``target``.

    Args:
        prepare: gives splits with ``image``, uint8 [n, channels, size, size], and the labels that
            the target wants; ``info.details`` as ``image_data`` describes them.
    """
    return Task(
        name=name,
        prepare=prepare,
        encode=encode,
        build=build,
        blocks=blocks,
        transform=transform,
        forward=forward,
        loss=target.loss,
        meter=target.meter,
        decode=target.decode,
        artifacts=target.artifacts,
        column=Column("image", image_files, example_image, target.answer),
        n_views=n_views,
        cut=cut,
    )


def transform(
    raw: Batch, config: ImageConfig, info: DataInfo, generator: Generator | None
) -> Batch:
    """Make pixels into model inputs, augmented where a generator is given.

    Args:
        raw: ``image``, uint8 [n, channels, size, size], on any device.
        generator: on the CPU, whatever the device of the images, so that a seed means the same
            everywhere.

    Returns:
        ``image``: float [n, 3, size, size], of mean 0 and standard deviation 1 over the training
            split; all else as it is.
    """
    images = raw["image"].float() / 255
    if generator is not None:
        images = augment(images, config.augmentation, config.augmentation_strength, generator)
    mean, std = (
        torch.tensor(info.details[name], dtype=images.dtype, device=images.device)[:, None, None]
        for name in ("mean", "std")
    )
    images = (images - mean) / std
    # Greyscale images are shown to all three input channels instead of narrowing the first
    # convolution: any pretrained or saved weights then fit, and one thin convolution costs nothing
    # beside the rest.
    return {**raw, "image": images.expand(-1, 3, -1, -1)}


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """What the model gives [n, outputs]."""
    outputs: Tensor = model(batch["image"])
    return outputs


def n_views(config: ImageConfig) -> int:
    """How many versions of an image there are: one, the configured number, or 0 for new ones."""
    if config.augmentation == "none" or config.augmentation_strength == 0:
        return 1
    return config.cached_views


def cut(model: nn.Module, k: int, config: ImageConfig, info: DataInfo) -> Cut | None:
    """Cut before block ``k``; None if more than one tensor crosses there, or none of the images."""
    frozen, late = blocks(model)[:k], blocks(model)[k:]
    device: Any = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, config.image_size, config.image_size, generator=generator).to(device)
    parts = cutting.cut(model, frozen, late, forward, {"image": noise[:1]})
    if parts is None:
        return None
    unseen = {"image": torch.zeros_like(noise[:1])}  # nothing of an image reaches the suffix

    def prefix(raw: Batch, group: int, generators: Sequence[Generator] | None) -> Tensor:
        if generators is None:
            return parts.prefix(transform(raw, config, info, None))
        # One by one: the changes to an image then never depend on which others are with it.
        singles = [
            transform({"image": raw["image"][i : i + 1]}, config, info, generator)["image"]
            for i, generator in enumerate(generators)
        ]
        return parts.prefix({"image": torch.cat(singles)})

    def suffix(activations: Tensor, raw: Batch | None) -> Any:
        return parts.suffix(activations, unseen)

    both = {"image": noise}
    if not cutting.is_whole(model, forward, both, lambda: suffix(parts.prefix(both), None)):
        return None
    modules = [str(module) for block in frozen for module in block.modules(model)]
    settings = (config.model, config.stem, config.image_size, config.weights == "none")
    identity = f"{settings} {late[0].paths} {modules}"
    return Cut(identity, _one_group, prefix, suffix, suffix_needs_inputs=False)


def _one_group(inputs: Mapping[str, Any]) -> np.ndarray:
    """All images of a split are of one size."""
    return np.zeros(len(inputs["image"]), dtype=np.int64)


def image_files(typed: Sequence[str]) -> list[tuple[str, Any]]:
    """The paths of image files.

    Raises:
        InputError: there is no such file.
    """
    for path in typed:
        if not Path(path).is_file():
            raise InputError(f"image file {path!r}: there is no such file")
    return [(path, path) for path in typed]


def example_image() -> bytes:
    """The content of a small image file."""
    file = io.BytesIO()
    Image.new("L", (8, 8), 128).save(file, "PNG")
    return file.getvalue()
