"""Random changes to images that keep their class: drawn per image, made to a batch at once.

Strength scales every range; 0 changes nothing. The ranges at full strength are assumptions, wide
enough that the search should find its best below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from trainables.errors import InputError, unknown

# digits, at strength 1
_ROTATION = math.radians(30)
_SHEAR = math.radians(20)
_SCALE = 0.3  # from 1 / 1.3 to 1.3
_SHIFT = 0.25  # of the image's side

# photo, at strength 1; at one half the crop is that of He et al. 2016 for CIFAR, 4 pixels of 32
# (arXiv:1512.03385)
_CROP = 0.25  # of the image's side
_JITTER = 0.8  # factors of brightness, contrast and saturation from 0.2 to 1.8


def augment(images: Tensor, policy: str, strength: float, generator: Generator) -> Tensor:
    """Change each image at random.

    Args:
        images: float [n, channels, size, size] in [0, 1], on any device.
        policy: one of ``POLICIES``.
        strength: in [0, 1]; 0 returns the images as they are.
        generator: on the CPU, so that a seed gives the same changes on every device.

    Returns:
        Like ``images``, which is left alone.

    Raises:
        InputError: no such policy.
    """
    if policy not in POLICIES:
        raise InputError(unknown("augmentation", policy, POLICIES))
    if strength == 0 or len(images) == 0:
        return images
    return POLICIES[policy](images, strength, generator)


def _none(images: Tensor, strength: float, generator: Generator) -> Tensor:
    return images


def _digits(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Rotate, shear, scale and shift each image; never mirror it, a mirrored 2 is no digit."""
    rotation, shear, log_scale, shift_x, shift_y = _draw(len(images), 5, generator) * strength
    cos, sin, slope = (
        (rotation * _ROTATION).cos(),
        (rotation * _ROTATION).sin(),
        (shear * _SHEAR).tan(),
    )
    scale = (log_scale * math.log1p(_SCALE)).exp()
    # grid_sample asks where in the old image, from -1 to 1, each new pixel comes from.
    theta = torch.stack(
        [
            torch.stack([cos * scale, (slope * cos - sin) * scale, shift_x * 2 * _SHIFT], dim=1),
            torch.stack([sin * scale, (slope * sin + cos) * scale, shift_y * 2 * _SHIFT], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    # The border goes on outside the image, which suits dark digits on white as well as white ones
    # on black.
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _photo(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Mirror half of the images, crop each as if padded by reflection, and jitter its colours."""
    moved = _flip_and_crop(images, strength, generator)
    channels = images.shape[1]
    factors = 1 + _JITTER * strength * _draw(len(images), 3, generator)
    brightness, contrast, saturation = factors.to(images)[:, :, None, None, None]
    # All three are linear: x -> brightness * (saturation * x + (1 - saturation) * grey(x)), then
    # away from the mean.
    if channels == 3:
        weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601
        grey = (moved * weights).sum(dim=1, keepdim=True)
        moved = torch.lerp(grey, moved, saturation)
        mean = grey.mean(dim=(2, 3), keepdim=True)
    else:
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return moved.mul(contrast * brightness).add_(mean * brightness * (1 - contrast)).clamp_(0, 1)


def _flip_and_crop(images: Tensor, strength: float, generator: Generator) -> Tensor:
    n, _, height, width = images.shape
    flip, *shifts = _draw(n, 3, generator)
    # Both are a choice of rows and columns, so one lookup does them; pixels past the edge are
    # reflected.
    rows, columns = (
        _reflect(
            torch.arange(side) + (shift[:, None] * _CROP * strength * side).round().long(), side
        )
        for side, shift in zip((height, width), shifts, strict=True)
    )
    # Half of them from strength 0.5 on, where the crop is the customary one too; fewer below.
    flipped = flip < 2 * min(0.5, strength) - 1
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    every = torch.arange(n, device=images.device)[:, None, None]
    rows, columns = rows.to(images.device), columns.to(images.device)
    picked = images.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()


def _reflect(index: Tensor, side: int) -> Tensor:
    """Indices past either edge, mirrored back inside: -1 becomes 1."""
    last = side - 1
    return last - (last - index.abs()).abs()


def _draw(n: int, count: int, generator: Generator) -> Tensor:
    """``count`` uniform random numbers in [-1, 1) for each of ``n`` images: [count, n]."""
    return torch.rand((count, n), generator=generator) * 2 - 1


POLICIES: Mapping[str, Callable[[Tensor, float, Generator], Tensor]] = {
    "none": _none,
    "digits": _digits,
    "photo": _photo,
}
