"""Image classification: any torchvision model, on images of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from trainables.modalities.images.augment import augment
from trainables.modalities.images.backbones import build
from trainables.modalities.images.blocks import blocks
from trainables.modalities.images.cut import cut as cut_between_blocks
from trainables.modalities.images.decode import encode
from trainables.modalities.images.image_data import prepare
from trainables.targets.classes import loss, meter
from trainables.task import Cut, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from trainables.config import ImageClassificationConfig
    from trainables.prepared import DataInfo


def transform(
    raw: dict[str, Tensor],
    config: ImageClassificationConfig,
    info: DataInfo,
    generator: Generator | None,
) -> dict[str, Tensor]:
    """Make pixels into model inputs, augmented where a generator is given.

    Args:
        raw: ``image``, uint8 [n, channels, size, size], on any device.
        generator: on the CPU, whatever the device of the images, so that a seed means the same
            everywhere.

    Returns:
        ``image``: float [n, 3, size, size], of mean 0 and standard deviation 1 over the training
            split.
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
    return {"image": images.expand(-1, 3, -1, -1)}


def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits [n, classes]."""
    logits: Tensor = model(inputs["image"])
    return logits


def n_views(config: ImageClassificationConfig) -> int:
    """How many versions of an image there are: one, the configured number, or 0 for new ones."""
    if config.augmentation == "none" or config.augmentation_strength == 0:
        return 1
    return config.cached_views


def cut(model: nn.Module, k: int, config: ImageClassificationConfig, info: DataInfo) -> Cut | None:
    """The model cut before block ``k``."""
    return cut_between_blocks(
        model, k, config, lambda raw, generator: transform(raw, config, info, generator), forward
    )


TASK = Task(
    name="image_classification",
    prepare=prepare,
    build=build,
    blocks=blocks,
    transform=transform,
    forward=forward,
    loss=loss,
    meter=meter,
    encode=encode,
    n_views=n_views,
    cut=cut,
)
