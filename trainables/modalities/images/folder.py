"""Image files in class folders as splits, and notes on those not readable. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from trainables.data.class_folders import Item, Layout, relative
from trainables.data.prepare import Made
from trainables.errors import InputError, some
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.decode import UNREADABLE, decode_image, reason
from trainables.modalities.images.store import as_splits, cut_splits, store_images
from trainables.targets.classes import indexed_answers
from trainables.targets.target import Answers

_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_AT_ONCE = 512  # images decoded before they are written
_N_THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes without the interpreter's lock

Items = Mapping[str, Sequence[Item]]  # of each split
Numbers = Mapping[str, Sequence[int]]  # split -> the number of each of its items
T = TypeVar("T")


def prepare_folder(config: ImageConfig, layout: Layout, found: Items, scratch: Path) -> Made:
    """The images of class folders, with the splits cut that the folder lacks.

    A file that is found to be damaged only when it is decoded is missing from the split it fell to.

    Raises:
        InputError: a class has no readable image, or there are too few to cut the splits from.
    """
    where = f"data = {str(layout.root)!r}"

    def missing(targets: Container[int]) -> list[str]:
        return [repr(name) for i, name in enumerate(layout.classes) if i not in targets]

    def cut(items: Items) -> Items:
        if empty := missing({target for _, target in items["train"]}):
            raise InputError(
                f"{where}: no readable image in class folder {some(empty)}; "
                "remove the folder or add images to it"
            )
        return _cut(config, items)

    def answers(targets: Numbers) -> Answers:
        for name, lost in (("train", missing(targets["train"])), ("val", [])):
            if lost or not targets[name]:
                raise InputError(
                    f"{where}: every file of {some(lost) or 'all classes'} that "
                    f"fell to the {name} split is damaged; remove the damaged files"
                )
        return indexed_answers(targets, layout.classes)

    return prepare_files(config, found, cut, answers, (layout.root, layout.notes), scratch)


def prepare_files(
    config: ImageConfig,
    found: Items,
    cut: Callable[[Items], Items],
    answers: Callable[[Numbers], Answers],
    said: tuple[Path, Sequence[str]],
    scratch: Path,
) -> Made:
    """Decode every image of ``found`` that can be.

    Args:
        found: files of each split, each with a number.
        cut: what makes the splits of those files whose headers say image.
        answers: (the numbers of the images of each split) -> what is predicted of them.
        said: where the files are, and notes on them.
    """
    skipped: list[tuple[Path, str]] = []
    files, grey = _readable(found, skipped)
    images, numbers = _decode_all(cut(files), grey, config.image_size, scratch, skipped)
    predicted, (root, notes) = answers(numbers), said
    named = [f"{relative(path, root)} ({why})" for path, why in sorted(skipped)]
    lost = [f"skipped, not readable as images: {some(named)}"] if named else []
    return as_splits(images, predicted, [*lost, *notes])


def _readable(found: Items, skipped: list[tuple[Path, str]]) -> tuple[dict[str, list[Item]], bool]:
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


def _cut(config: ImageConfig, items: Items) -> Items:
    wanted = {"val": config.val_fraction, "test": config.test_fraction}
    fractions = {name: fraction for name, fraction in wanted.items() if name not in items}
    train = items["train"]
    n_total = sum(len(split) for split in items.values())
    parts = cut_splits([target for _, target in train], fractions, n_total, config.split_seed)
    return {**items, **{name: [train[i] for i in part] for name, part in parts.items()}}


def _decode_all(
    items: Items,
    grey: bool,
    image_size: int,
    scratch: Path,
    skipped: list[tuple[Path, str]],
) -> tuple[dict[str, np.ndarray], Numbers]:
    """Images and their numbers of each split, without the files that turn out damaged.

    Args:
        grey: all are greyscale by their format. If they prove to be, one channel is kept as well.
    """
    images, numbers = {}, dict[str, list[int]]()
    channels = 1 if grey else 3

    def decode(item: Item) -> np.ndarray | str:
        try:
            return decode_image(item[0], channels, image_size)
        except UNREADABLE as error:
            return reason(error)

    def decoded(split: Sequence[Item], kept: list[int]) -> Iterator[np.ndarray]:
        for (path, number), result in zip(split, _in_threads(decode, split), strict=True):
            if isinstance(result, str):
                skipped.append((path, result))
            else:
                kept.append(number)
                yield result[None]

    for name, split in items.items():
        kept = numbers[name] = []
        images[name] = store_images(decoded(split, kept), scratch, channels, image_size)
    if not grey and all(_is_grey(split) for split in images.values()):
        images = {name: split[:, :1] for name, split in images.items()}
    return images, numbers


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
