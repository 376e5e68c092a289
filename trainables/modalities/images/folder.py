"""Image files in class folders as splits, and notes on those not readable. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from trainables.data.class_folders import Item, Layout, relative, some
from trainables.errors import InputError
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.decode import UNREADABLE, decode_image, reason
from trainables.modalities.images.store import cut_splits, make_splits, statistics, store_images
from trainables.prepared import DataInfo, Split
from trainables.targets.classes import summary

_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_AT_ONCE = 512  # images decoded before they are written
_N_THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes without the interpreter's lock

Items = Mapping[str, Sequence[Item]]  # of each split
T = TypeVar("T")


def prepare_folder(
    config: ImageConfig, layout: Layout, found: Items, scratch: Path
) -> tuple[DataInfo, Mapping[str, Split]]:
    """Decode every image of ``found`` that can be, and cut the splits that the folder lacks.

    A file that is found to be damaged only when it is decoded is missing from the split it fell to.

    Raises:
        InputError: a class has no readable image, or there are too few to cut the splits from.
    """
    skipped: list[tuple[Path, str]] = []
    files, grey = readable(found, skipped)
    _check_every_class(layout, files["train"])
    items = _cut(config, files)
    images, targets = decode_all(items, grey, config.image_size, scratch, skipped)
    for name in ("train", "val"):
        _check_decoded(layout, name, targets[name])
    notes = list(layout.notes)
    notes = [*note_skipped(skipped, layout.root), *notes]
    details = image_details(images)
    info = DataInfo(layout.classes, tuple(notes), details, summary=summary(layout.classes))
    return info, make_splits(images, targets)


def readable(found: Items, skipped: list[tuple[Path, str]]) -> tuple[dict[str, list[Item]], bool]:
    """The items whose headers say image, and whether all of those are greyscale by format."""
    grey = True
    items: dict[str, list[Item]] = {}
    for name, listed in found.items():
        items[name] = []
        for (path, target), (mode, why) in zip(listed, _in_threads(_mode, listed), strict=True):
            if mode is None:
                skipped.append((path, why))
            else:
                items[name].append((path, target))
                grey &= mode in _GREY_MODES
    return items, grey


def _mode(item: Item) -> tuple[str | None, str]:
    try:
        with Image.open(item[0]) as image:
            return image.mode, ""
    except UNREADABLE as error:
        return None, reason(error) if item[0].stat().st_size else "empty file"


def _check_every_class(layout: Layout, items: Sequence[Item]) -> None:
    present = {target for _, target in items}
    empty = [repr(name) for target, name in enumerate(layout.classes) if target not in present]
    if empty:
        raise InputError(
            f"data = {str(layout.root)!r}: no readable image in class folder {some(empty)}; "
            "remove the folder or add images to it"
        )


def _check_decoded(layout: Layout, split: str, targets: np.ndarray) -> None:
    wanted = range(len(layout.classes)) if split == "train" else ()
    missing = [repr(layout.classes[target]) for target in wanted if target not in targets]
    if missing or len(targets) == 0:
        raise InputError(
            f"data = {str(layout.root)!r}: every file of {some(missing) or 'all classes'} that "
            f"fell to the {split} split is damaged; remove the damaged files"
        )


def _cut(config: ImageConfig, items: Items) -> dict[str, Sequence[Item]]:
    wanted = {"val": config.val_fraction, "test": config.test_fraction}
    fractions = {name: fraction for name, fraction in wanted.items() if name not in items}
    train = items["train"]
    n_total = sum(len(split) for split in items.values())
    parts = cut_splits([target for _, target in train], fractions, n_total, config.split_seed)
    cut: dict[str, Sequence[Item]] = {
        name: [train[index] for index in part] for name, part in parts.items()
    }
    return {**items, **cut}


def note_skipped(skipped: Sequence[tuple[Path, str]], root: Path) -> list[str]:
    """Which files could not be used, in a line."""
    named = [f"{relative(path, root)} ({why})" for path, why in sorted(skipped)]
    return [f"skipped, not readable as images: {some(named)}"] if named else []


def image_details(images: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What of ``DataInfo.details`` is about images: channels, size, mean and std."""
    _, channels, size, _ = images["train"].shape
    return {"channels": channels, "image_size": size, **statistics(images["train"])}


def decode_all(
    items: Items,
    grey: bool,
    image_size: int,
    scratch: Path,
    skipped: list[tuple[Path, str]],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images and targets of each split, without the files that turn out damaged.

    Args:
        grey: all are greyscale by their format. If they prove to be, one channel is kept as well.
    """
    images, targets = {}, {}
    channels = 1 if grey else 3

    def decode(item: Item) -> np.ndarray | str:
        try:
            return decode_image(item[0], channels, image_size)
        except UNREADABLE as error:
            return reason(error)

    def decoded(split: Sequence[Item], kept: list[int]) -> Iterator[np.ndarray]:
        for (path, target), result in zip(split, _in_threads(decode, split), strict=True):
            if isinstance(result, str):
                skipped.append((path, result))
            else:
                kept.append(target)
                yield result[None]

    for name, split in items.items():
        kept: list[int] = []
        images[name] = store_images(decoded(split, kept), scratch, channels, image_size)
        targets[name] = np.array(kept, np.int64)
    if not grey and all(_is_grey(split) for split in images.values()):
        images = {name: split[:, :1] for name, split in images.items()}
    return images, targets


def _in_threads(function: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    """``map`` in order, by threads, holding only so many results at once."""
    with ThreadPoolExecutor(_N_THREADS) as pool:
        for start in range(0, len(items), _AT_ONCE):
            yield from pool.map(function, items[start : start + _AT_ONCE])


def _is_grey(images: np.ndarray) -> bool:
    """Whether the channels of uint8 [n, 3, h, w] are equal, as they may be in RGB files too."""
    return all(
        bool((images[start : start + _AT_ONCE] == images[start : start + _AT_ONCE, :1]).all())
        for start in range(0, len(images), _AT_ONCE)
    )
