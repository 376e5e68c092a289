"""Image data that comes as arrays: scikit-learn's digits, and IDX files as MNIST. Torch-free."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.download import download
from trainables.errors import InputError
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.decode import square_array
from trainables.modalities.images.store import cut_splits, make_splits, statistics, store_images
from trainables.prepared import DataInfo, Split
from trainables.targets.classes import summary

_DIGIT_NAMES = tuple(str(digit) for digit in range(10))
_FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FASHION_LABELS_MD5 = "3236f6424fc25388b2834cb19942cf7e"  # of the 60,000 label bytes

IDX_FILES = {
    ("train", "images"): "train-images-idx3-ubyte.gz",
    ("train", "labels"): "train-labels-idx1-ubyte.gz",
    ("t10k", "images"): "t10k-images-idx3-ubyte.gz",
    ("t10k", "labels"): "t10k-labels-idx1-ubyte.gz",
}
_IDX_NAME = re.compile(r"(train|t10k)-(images|labels)[.-]idx[13]-ubyte(\.gz)?")

IdxPaths = dict[tuple[str, str], Path]


@dataclass(frozen=True)
class IdxSource:
    """Where four IDX files are published, and the MD5 of each in the order of ``IDX_FILES``."""

    mirrors: tuple[str, ...]
    md5: tuple[str, str, str, str]


# Addresses and digests as torchvision.datasets has them.
IDX_SOURCES: Mapping[str, IdxSource] = {
    "mnist": IdxSource(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": IdxSource(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
}


def prepare_digits(config: ImageConfig, scratch: Path) -> tuple[DataInfo, Mapping[str, Split]]:
    """1,797 scans of handwritten digits at 8x8 pixels, split by ``config``.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998. Read from
    the file that scikit-learn ships, because importing ``sklearn.datasets`` takes 3.6 s.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file) as rows:
        table = np.loadtxt(rows, delimiter=",", dtype=np.int64)
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    targets = table[:, 64]
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    parts = cut_splits(targets, fractions, len(targets), config.split_seed)
    stored = {
        name: _resized(images[part], scratch, config.image_size) for name, part in parts.items()
    }
    return _info(_DIGIT_NAMES, (), stored, config), make_splits(
        stored, {name: targets[part] for name, part in parts.items()}
    )


def prepare_idx(
    config: ImageConfig, paths: IdxPaths, scratch: Path
) -> tuple[DataInfo, Mapping[str, Split]]:
    """The official test files are the test split, as in published figures; the rest is cut."""
    images = {part: read_idx(paths[part, "images"], 3) for part in ("train", "t10k")}
    targets = {part: read_idx(paths[part, "labels"], 1) for part in ("train", "t10k")}
    for part in images:
        if len(images[part]) != len(targets[part]):
            raise InputError(
                f"{str(paths[part, 'images'])!r} holds {len(images[part])} images and "
                f"{str(paths[part, 'labels'])!r} {len(targets[part])} labels: they must be as many"
            )
    n_total = len(targets["train"]) + len(targets["t10k"])
    cut = cut_splits(targets["train"], {"val": config.val_fraction}, n_total, config.split_seed)
    every_test = np.arange(len(targets["t10k"]))
    parts = {
        "train": ("train", cut["train"]),
        "val": ("train", cut["val"]),
        "test": ("t10k", every_test),
    }
    stored = {
        name: _resized(images[part][index], scratch, config.image_size)
        for name, (part, index) in parts.items()
    }
    notes = ("the test split is the data set's own; test_fraction is not used",)
    splits = make_splits(
        stored, {name: targets[part][index] for name, (part, index) in parts.items()}
    )
    return _info(_idx_classes(config, targets), notes, stored, config), splits


def _info(
    classes: tuple[str, ...],
    notes: tuple[str, ...],
    images: Mapping[str, np.ndarray],
    config: ImageConfig,
) -> DataInfo:
    return DataInfo(
        classes,
        notes,
        {"channels": 1, "image_size": config.image_size, **statistics(images["train"])},
        summary=summary(classes),
    )


def _idx_classes(config: ImageConfig, targets: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    labels_md5 = hashlib.md5(targets["train"].tobytes(), usedforsecurity=False).hexdigest()
    if config.data == "fashion_mnist" or labels_md5 == _FASHION_LABELS_MD5:
        return _FASHION_NAMES
    return tuple(
        str(label) for label in range(1 + max(int(part.max()) for part in targets.values()))
    )


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
    source = IDX_SOURCES[name]
    reasons = []
    for mirror in source.mirrors:
        try:
            for file, md5 in zip(IDX_FILES.values(), source.md5, strict=True):
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
