"""The data of image classification: checked before anything starts, and as splits. Torch-free."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trainables.data.class_folders import read_layout
from trainables.data.paths import data_path
from trainables.data.prepare import Make, file_identity, prepare_once
from trainables.errors import InputError, valid_choices
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.folder import prepare_folder
from trainables.modalities.images.known_sources import (
    KNOWN_IDX,
    find_idx,
    known_idx,
    prepare_digits,
    prepare_idx,
)
from trainables.modalities.images.model_names import block_names, check_model_name
from trainables.prepared import PreparedData
from trainables.strategies import check_block_numbers, names_a_block

KNOWN_DATA = ("digits", *KNOWN_IDX)
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".tar", ".bin")


def check(config: ImageConfig) -> None:
    """Find what is wrong with a configuration, without web access or reading images.

    Raises:
        InputError: the data, model or weights do not exist, or model, image size, stem or frozen
            blocks do not go together.
    """
    _check_data(config)
    check_model(config)


def check_model(config: ImageConfig) -> None:
    """See whether model, weights, image size, stem and frozen blocks go together.

    Torch is imported only for a model, image size and stem that were not seen here before.

    Raises:
        InputError: they do not, or the model or its weights do not exist.
    """
    check_model_name(config.model)
    _check_weights(config)
    names = block_names(config)
    if names_a_block(config):
        check_block_numbers(config, names)


def _check_data(config: ImageConfig) -> None:
    if config.data in KNOWN_DATA:
        return
    folder = Path(config.data).expanduser()
    if not folder.is_dir():
        what = "is no data set's name and no folder"
        if folder.exists():
            data_path(config.data)
            what = "is a file"
        raise InputError(
            f"data = {config.data!r}: {what}; valid: {valid_choices(config.data, KNOWN_DATA)}, "
            "a folder with a folder of images per class, or a folder with four IDX files as MNIST's"
        )
    if find_idx(folder) is None:
        read_layout(folder)


def _check_weights(config: ImageConfig) -> None:
    if config.weights in ("none", "default"):
        return
    path = Path(config.weights).expanduser()
    rule = (
        "valid: none, default (torchvision's or timm's), or a file ending in "
        f"{', '.join(WEIGHTS_SUFFIXES)}"
    )
    if path.exists():
        data_path(config.weights, "weights")
    if not path.is_file():
        raise InputError(f"weights = {config.weights!r}: there is no such file; {rule}")
    if path.suffix.lower() not in WEIGHTS_SUFFIXES:
        raise InputError(
            f"weights = {config.weights!r}: its ending {path.suffix!r} is none of weights; {rule}"
        )


def prepare(config: ImageConfig, cache_folder: Path) -> PreparedData:
    """The splits, decoded and resized once per machine.

    Each split holds ``image``, uint8 [n, channels, image_size, image_size]; one channel if every
    image is greyscale, else three. ``info.details`` has ``channels``, ``image_size``, and ``mean``
    and ``std`` of the training split's channels in units of [0, 1].

    Raises:
        InputError: the data is missing, can not be fetched, or can not be used; the message says
            what to do.
    """
    make, identity = _source(config, cache_folder)
    fields = {name: getattr(config, name) for name in config.DATA_FIELDS}
    return prepare_once(cache_folder, {**fields, "files": identity}, make)


def _source(config: ImageConfig, cache_folder: Path) -> tuple[Make, str]:
    """What makes the splits, and a digest of the files it makes them from."""
    if config.data == "digits":
        return partial(prepare_digits, config), ""
    _check_data(config)
    if config.data in KNOWN_IDX:
        paths = known_idx(config.data, cache_folder / "downloads" / config.data)
    else:
        folder = Path(config.data).expanduser()
        found = find_idx(folder)
        if found is None:
            layout = read_layout(folder)
            items = layout.items()
            identity = file_identity(path for split in items.values() for path, _ in split)
            return partial(prepare_folder, config, layout, items), identity
        paths = found
    return partial(prepare_idx, config, paths), file_identity(paths.values())


def fetch(config: ImageConfig) -> None:
    """Bring the configured weights to this machine, and see whether they fit the model.

    Raises:
        InputError: they are not here and can not be reached, are damaged, or another model's.
    """
    if config.weights != "none":
        from trainables.modalities.images.backbones import check_weights  # imports torch: seconds

        check_weights(config)
