"""What every task on images can be told. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trainables.config import TrainingConfig


class ImageConfig(TrainingConfig):
    """Settings of tasks whose inputs are images."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TrainingConfig.DATA_FIELDS, "image_size")

    model: str = Field(default="resnet18", description="name of a torchvision model, or timm:NAME")
    weights: str = Field(
        default="none",
        description="none, default (torchvision's or timm's), or a path to a .safetensors, .pt or "
        ".pth file",
    )
    image_size: int = Field(
        default=64, ge=4, le=1024, description="pixels on a side that images are resized to"
    )
    stem: Literal["auto", "small", "standard"] = Field(
        default="auto",
        description="small keeps the resolution of small images; auto decides by image_size",
    )
    augmentation: Literal["none", "digits", "photo"] = Field(
        default="none", description="random changes of training images: for digits, or for photos"
    )
    augmentation_strength: float = Field(
        default=0.5, ge=0, le=1, description="how far augmentation changes an image"
    )
    cached_views: int = Field(
        default=0,
        ge=0,
        le=100,
        description="augmented versions of each image to choose from while blocks are frozen, so "
        "that their output can be kept; 0 makes new ones in each epoch and keeps nothing",
    )
