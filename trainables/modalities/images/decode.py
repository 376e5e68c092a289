"""Image files as arrays: one way to decode them, for training and for prediction. Torch-free."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainables.errors import InputError, first_line
from trainables.modalities.images.config import ImageConfig
from trainables.prepared import Array, DataInfo

# What Pillow raises for a file that is no image, is cut short, or is damaged; its decoders differ.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits in their one channel


def decode_image(source: Path | IO[bytes], channels: int, image_size: int) -> np.ndarray:
    """Read an image as it is meant to be seen: upright, on white where it is transparent.

    The largest centred square is resized, which is the shorter side resized and then a centre crop,
    without ever holding a resized panorama.

    Args:
        channels: 1 for greyscale, 3 for RGB.

    Returns:
        uint8 [channels, image_size, image_size].

    Raises:
        One of ``UNREADABLE``: the file is no image, is damaged, or is cut short.
    """
    with Image.open(source) as opened:
        # A JPEG decoder can leave out detail that resizing would throw away; twice the size keeps
        # the antialiasing.
        opened.draft(None, (2 * image_size, 2 * image_size))
        opened.load()
        upright = ImageOps.exif_transpose(opened)
        return square_array(
            _to_eight_bits(upright).convert("RGB" if channels == 3 else "L"), image_size
        )


def square_array(image: Image.Image, image_size: int) -> np.ndarray:
    """An image's centred square, resized with antialiasing: uint8 [channels, size, size]."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if image.size != (image_size, image_size):
        box = (left, top, left + side, top + side)
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)
    array = np.asarray(image, np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        return Image.fromarray(_scale_deep(np.asarray(image).astype(np.float64)))
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(white, seen)
    return image


def _scale_deep(values: np.ndarray) -> np.ndarray:
    """Deeper values as uint8. The file does not say their range, so they have to."""
    values = np.nan_to_num(values)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:  # neither 8 nor 16 bits: spread what there is
        values = (values - low) * (255 / (high - low))
    elif high > 255:
        values = values / 257  # 65535 becomes 255
    return np.round(values).astype(np.uint8)


def encode(
    items: Sequence[bytes | str], config: ImageConfig, info: DataInfo, assets: Path
) -> dict[str, Array]:
    """Images to predict on, as the splits of the training data hold them.

    Args:
        items: contents of image files, or paths to them.

    Returns:
        ``image``: uint8 [n, channels, image_size, image_size].

    Raises:
        InputError: an item is no readable image, or no such file exists.
    """
    channels, image_size = int(info.details["channels"]), int(info.details["image_size"])
    images = np.empty((len(items), channels, image_size, image_size), np.uint8)
    for index, item in enumerate(items):
        source: Any = Path(item) if isinstance(item, str) else io.BytesIO(item)
        try:
            images[index] = decode_image(source, channels, image_size)
        except UNREADABLE as error:
            what = repr(item) if isinstance(item, str) else f"item {index} ({len(item)} bytes)"
            raise InputError(f"{what} can not be read as an image: {reason(error)}") from None
    return {"image": images}


def reason(error: BaseException) -> str:
    """Why an image could not be read, in one short line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format known to Pillow"
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno) if error.errno else error.strerror
    return first_line(error)[:120]
