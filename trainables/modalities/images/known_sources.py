"""Image data that comes as arrays: scikit-learn's digits, and IDX files as MNIST. Torch-free."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.download import download
from trainables.data.prepare import Made
from trainables.errors import InputError
from trainables.files import package_folder
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.decode import square_array
from trainables.modalities.images.store import as_splits, cut_splits, store_images
from trainables.targets.classes import indexed_answers

_FASHION_LABELS_MD5 = "3236f6424fc25388b2834cb19942cf7e"  # of the 60,000 label bytes

KNOWN_IDX = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # name -> torchvision's class
IDX_FILES = {
    (part, what): f"{part}-{what}-idx{n_dimensions}-ubyte.gz"
    for part in ("train", "t10k")
    for what, n_dimensions in (("images", 3), ("labels", 1))
}
_IDX_NAME = re.compile(r"(train|t10k)-(images|labels)[.-]idx[13]-ubyte(\.gz)?")

IdxPaths = dict[tuple[str, str], Path]
Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [n, h, w], and their classes [n]


def prepare_digits(config: ImageConfig, scratch: Path) -> Made:
    """1,797 scans of handwritten digits at 8x8 pixels, split by ``config``.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998. Read from
    the file that scikit-learn ships, because importing ``sklearn.datasets`` takes 3.6 s.
    """
    with gzip.open(package_folder("sklearn") / "datasets/data/digits.csv.gz") as rows:
        table = np.loadtxt(rows, delimiter=",", dtype=np.int64)
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    targets = table[:, 64]
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    parts = cut_splits(targets, fractions, len(targets), config.split_seed)
    arrays = {name: (images[part], targets[part]) for name, part in parts.items()}
    return _prepared(config, arrays, tuple(map(str, range(10))), (), scratch)


def prepare_idx(config: ImageConfig, paths: IdxPaths, scratch: Path) -> Made:
    """The official test files are the test split, as in published figures; the rest is cut."""
    (images, targets), test = (_read_pair(paths, part) for part in ("train", "t10k"))
    n_total = len(targets) + len(test[1])
    cut = cut_splits(targets, {"val": config.val_fraction}, n_total, config.split_seed)
    arrays = {name: (images[part], targets[part]) for name, part in cut.items()} | {"test": test}
    labels_md5 = hashlib.md5(targets.tobytes(), usedforsecurity=False).hexdigest()
    if config.data == "fashion_mnist" or labels_md5 == _FASHION_LABELS_MD5:
        classes = tuple(_torchvision_class("fashion_mnist").classes)
    else:
        classes = tuple(map(str, range(1 + max(int(targets.max()), int(test[1].max())))))
    notes = ("the test split is the data set's own; test_fraction is not used",)
    return _prepared(config, arrays, classes, notes, scratch)


def _read_pair(paths: IdxPaths, part: str) -> Arrays:
    images, labels = read_idx(paths[part, "images"], 3), read_idx(paths[part, "labels"], 1)
    if len(images) != len(labels):
        raise InputError(
            f"{str(paths[part, 'images'])!r} holds {len(images)} images and "
            f"{str(paths[part, 'labels'])!r} {len(labels)} labels: they must be as many"
        )
    return images, labels


def _prepared(
    config: ImageConfig,
    arrays: Mapping[str, Arrays],
    classes: tuple[str, ...],
    notes: tuple[str, ...],
    scratch: Path,
) -> Made:
    images = {name: _resized(own, scratch, config.image_size) for name, (own, _) in arrays.items()}
    answers = indexed_answers({name: targets for name, (_, targets) in arrays.items()}, classes)
    return as_splits(images, answers, notes)


def _torchvision_class(name: str) -> Any:
    """Addresses, digests and names of classes; torchvision takes seconds to import."""
    from torchvision import datasets

    return getattr(datasets, KNOWN_IDX[name])


def _resized(images: np.ndarray, scratch: Path, image_size: int) -> np.ndarray:
    """Greyscale images uint8 [n, h, w] as [n, 1, image_size, image_size]."""

    def blocks() -> Iterator[np.ndarray]:
        if images.shape[1:] == (image_size, image_size):
            yield images[:, None]
        else:
            yield from (square_array(Image.fromarray(image), image_size)[None] for image in images)

    return store_images(blocks(), scratch, 1, image_size)


def find_idx(folder: Path) -> IdxPaths | None:
    """The four IDX files in ``folder``, or where torchvision keeps them below it; None if none.

    Raises:
        InputError: some of the four are missing.
    """
    for place in (folder, folder / "raw", *sorted(folder.glob("*/raw"))):
        found: IdxPaths = {}
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if (match := _IDX_NAME.fullmatch(path.name)) and path.is_file():
                found[match[1], match[2]] = path
        missing = [name for key, name in IDX_FILES.items() if key not in found]
        if found and missing:
            raise InputError(
                f"data: {str(place)!r} has some of the four IDX files and lacks "
                f"{', '.join(missing)} (unpacked, without .gz, is fine too)"
            )
        if found:
            return found
    return None


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """The unsigned bytes in an IDX file (format: yann.lecun.com/exdb/mnist), gzipped or not.

    Raises:
        InputError: the file is damaged or something else.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{str(path)!r} can not be read: {error}") from None
    start = 4 + 4 * n_dimensions
    if content[:4] != bytes([0, 0, 8, n_dimensions]) or len(content) < start:
        raise InputError(f"{str(path)!r} is not an IDX file of bytes in {n_dimensions} dimensions")
    shape = tuple(np.frombuffer(content, ">u4", n_dimensions, 4).tolist())
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != np.prod(shape) or not values.size:
        raise InputError(
            f"{str(path)!r} is damaged: it holds {values.size} bytes, and its header says {shape}"
        )
    return values.reshape(shape)


def known_idx(name: str, folder: Path) -> IdxPaths:
    """The files of ``mnist`` or ``fashion_mnist``, fetched into ``folder`` unless they are there.

    Raises:
        InputError: they are not there and can not be reached.
    """
    with contextlib.suppress(InputError):  # some are there: an earlier call broke off
        if found := find_idx(folder):
            return found
    source = _torchvision_class(name)
    reasons = []
    for mirror in source.mirrors:
        try:
            for file, md5 in source.resources:
                if not (folder / file).exists():
                    download(mirror + file, folder / file, f"md5:{md5}")
            break
        except OSError as error:
            reasons.append(f"{mirror}: {error}")
    else:
        raise InputError(
            f"data = {name!r}: it is not in {str(folder)!r} and could not be fetched "
            f"({'; '.join(reasons)}). Put these four files there: {', '.join(IDX_FILES.values())}; "
            "or give their folder with --set data=FOLDER"
        )
    found = find_idx(folder)
    assert found is not None
    return found
