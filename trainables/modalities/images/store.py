"""Images on their way into a prepared data set, kept out of memory. Torch-free."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from trainables.data.prepare import Made, stratified_split
from trainables.errors import InputError
from trainables.prepared import DataInfo, Split
from trainables.targets.target import Answers


def store_images(
    blocks: Iterable[np.ndarray], scratch: Path, channels: int, image_size: int
) -> np.ndarray:
    """Write blocks of images, uint8 [any, channels, image_size, image_size], and map them as one.

    The file in ``scratch`` has no name, so it is gone when the array is, or the process.

    Raises:
        OSError: the disk is full.
    """
    n = 0
    with tempfile.TemporaryFile(dir=scratch) as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            n += len(block)
        file.flush()
        shape = (n, channels, image_size, image_size)
        return np.memmap(file, np.uint8, mode="r", shape=shape) if n else np.empty(shape, np.uint8)


def statistics(images: np.ndarray) -> dict[str, list[float]]:
    """``mean`` and ``std`` of each channel of uint8 [n, channels, h, w], in units of [0, 1]."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 256):  # bincount makes an int64 of each value
        for count, channel in zip(counts, images[start : start + 256].swapaxes(0, 1), strict=True):
            count += np.bincount(channel.ravel(), minlength=256)
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    # A channel of one value must not divide by 0.
    std = np.sqrt(np.maximum(variance, 0)).clip(1 / 255)
    return {"mean": mean.round(6).tolist(), "std": std.round(6).tolist()}


def cut_splits(
    targets: Sequence[int] | np.ndarray, fractions: dict[str, float], n_total: int, seed: int
) -> dict[str, np.ndarray]:
    """Cut the splits in ``fractions``, shares of ``n_total`` samples, from the training samples.

    ``n_total`` counts also those of splits that came ready, so that a share means the same with and
    without them.

    Returns:
        Indices into ``targets`` of each split named and of ``train``.

    Raises:
        InputError: the validation split, or what is left to train on, is empty.
    """
    targets = np.asarray(targets)
    if not fractions:
        return {"train": np.arange(len(targets))}
    scale = n_total / max(len(targets), 1)
    shares = [fraction * scale for fraction in fractions.values()]
    wanted = ", ".join(f"{name}_fraction = {fraction:g}" for name, fraction in fractions.items())
    if sum(shares) >= 1:
        raise InputError(
            f"{wanted}: of all {n_total} images, that is more than the {len(targets)} training "
            "images they are cut from"
        )
    parts = dict(zip((*fractions, "train"), stratified_split(targets, shares, seed), strict=True))
    if "val" in parts and len(parts["val"]) == 0:
        largest = int(np.bincount(targets).max()) if len(targets) else 0
        raise InputError(
            f"{wanted}: leaves no image to validate on, because no class has more than {largest} "
            "images; set a larger val_fraction or add images"
        )
    return parts


def as_splits(images: Mapping[str, np.ndarray], answers: Answers, notes: Sequence[str]) -> Made:
    """Splits of ``images``, each uint8 [n, channels, size, size], and what is to be known of them.

    ``details`` has ``channels``, ``image_size``, ``mean`` and ``std``, and those of ``answers``.
    """
    _, channels, size, _ = images["train"].shape
    details = {"channels": channels, "image_size": size, **statistics(images["train"])}
    details |= answers.details
    info = DataInfo(answers.classes, tuple(notes), details, summary=answers.summary)
    return info, {
        name: Split({"image": np.asanyarray(each), **answers.labels[name]})
        for name, each in images.items()
    }
