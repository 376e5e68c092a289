"""Texts of one class each: from a file in whatever shape to token ids, once per machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.config import TextClassificationConfig
from trainables.data.prepare import file_identity, prepare_once
from trainables.data.text_encoding import without_surrogates
from trainables.data.text_files import check_columns
from trainables.data.text_splits import class_names, columns_of, data_files, read_splits
from trainables.errors import InputError, unknown
from trainables.modalities.texts import pretrained, tokenization
from trainables.prepared import SPLITS, DataInfo, PreparedData, Split
from trainables.strategies import check_block_numbers


@dataclass(frozen=True)
class ScratchModel:
    """A BERT that starts untrained, with a vocabulary learned from the training texts."""

    n_layers: int
    width: int
    n_heads: int
    n_tokens: int  # size of the vocabulary, at most


# Shapes: Turc et al., "Well-Read Students Learn Better", arXiv:1908.08962. Vocabulary sizes are
# assumptions: data sets small enough to train from nothing do not fill 30,000 tokens.
SCRATCH: dict[str, ScratchModel] = {
    "bert-tiny": ScratchModel(n_layers=2, width=128, n_heads=2, n_tokens=8192),
    "bert-mini": ScratchModel(n_layers=4, width=256, n_heads=4, n_tokens=8192),
    "bert-small": ScratchModel(n_layers=4, width=512, n_heads=8, n_tokens=16384),
}
_SCRATCH = "scratch:"


def scratch_model(model: str) -> ScratchModel | None:
    """The row of ``scratch:NAME``, None for any other model.

    Raises:
        InputError: there is no such row.
    """
    if not model.startswith(_SCRATCH):
        return None
    name = model.removeprefix(_SCRATCH)
    if name not in SCRATCH:
        raise InputError(unknown("model", model, [f"{_SCRATCH}{row}" for row in SCRATCH]))
    return SCRATCH[name]


def check(config: TextClassificationConfig) -> None:
    """Everything that can be found wrong in milliseconds, without torch and without network.

    Raises:
        InputError: data, a column or the model is not there; or the model has too few blocks or
            positions for the configuration.
    """
    files = data_files(config)
    for path in files.values():
        check_columns(path, columns_of(config))
    if config.text_column == config.label_column:
        raise InputError(f"label_column = {config.label_column!r}: must not be the text_column too")
    row = scratch_model(config.model)
    if row is not None:
        _check_n_blocks(config, row.n_layers)
        return
    folder = pretrained.local_folder(config.model)
    if folder is not None:
        _check_model(config, folder)


def fetch(config: TextClassificationConfig) -> None:
    """Make a hub model's weights and tokenizer local, so that no worker has to.

    Raises:
        InputError: it is not in the cache and the hub can not be reached, or it does not suit.
    """
    if scratch_model(config.model) is None:
        folder = pretrained.fetch(config.model)
        _check_model(config, folder)
        pretrained.check_weights(folder, config.model)


def _check_model(config: TextClassificationConfig, folder: Path) -> None:
    about = pretrained.read_config(folder, config.model)
    layers, positions = pretrained.n_layers(about), pretrained.max_positions(about)
    if layers is not None:
        _check_n_blocks(config, layers)
    if positions is not None and config.max_tokens > positions:
        raise InputError(
            f"max_tokens = {config.max_tokens}: must be at most {positions}, the positions of model"
            f" {config.model!r}"
        )


def _check_n_blocks(config: TextClassificationConfig, n_layers: int) -> None:
    layers = (f"layer.{i}" for i in range(n_layers))
    check_block_numbers(config, ["embeddings", *layers, "head"])


def prepare(config: TextClassificationConfig, cache_folder: Path) -> PreparedData:
    """Token ids of each split: ``input_ids`` int32 [n, longest] and ``length`` int32 [n].

    Imports neither torch nor transformers when the data is prepared already, or for scratch models.

    Raises:
        InputError: as ``check``, ``fetch``, or the files do not make a training and a validation
            split with the same two or more classes.
    """
    check(config)
    files = data_files(config)
    scratch = scratch_model(config.model)
    folder = None if scratch else pretrained.local_folder(config.model)
    identity = {name: getattr(config, name) for name in config.DATA_FIELDS}
    identity |= {f"{split}_file": file_identity([path]) for split, path in files.items()}
    if folder is not None:
        model_files = [*pretrained.tokenizer_files(folder), folder / "config.json"]
        identity["model_files"] = file_identity(model_files)
    return prepare_once(cache_folder, identity, lambda assets: _make(config, files, assets))


def _make(
    config: TextClassificationConfig, files: Mapping[str, Path], assets: Path
) -> tuple[DataInfo, dict[str, Split]]:
    fetch(config)  # first, so that a model out of reach is said before the files are read
    rows, notes = read_splits(config, files)
    classes = class_names(rows, config)
    scratch = scratch_model(config.model)
    if scratch is not None:
        texts = [row.text for row in rows["train"]]
        tokenization.train_wordpiece(texts, scratch.n_tokens, assets)
        pad_id = 0
    else:
        folder = pretrained.fetch(config.model)
        pad_id = tokenization.save_tokenizer(folder, assets, config.model)
        # With the architecture beside it, a checkpoint needs nothing from the original folder.
        (assets / "model").mkdir()
        shutil.copyfile(folder / "config.json", assets / "model" / "config.json")

    index = {label: i for i, label in enumerate(classes)}
    splits, n_cut = {}, 0
    for name in SPLITS:
        texts = [row.text for row in rows[name]]
        inputs, cut = tokenization.tokenise(texts, assets, config.max_tokens, pad_id)
        n_cut += cut
        splits[name] = Split(inputs, np.array([index[row.label] for row in rows[name]], np.int64))
    if n_cut:
        n_texts = sum(len(split) for split in splits.values())
        notes.append(
            f"{n_cut} of {n_texts} texts have more than max_tokens = {config.max_tokens} tokens and"
            " were cut"
        )
    details = {
        "pad_id": pad_id,
        "vocabulary_size": tokenization.vocabulary_size(assets),
        "split_sizes": {name: len(split) for name, split in splits.items()},
    }
    return DataInfo(classes, tuple(notes), details), splits


def encode(
    texts: Sequence[bytes | str], config: TextClassificationConfig, info: DataInfo, assets: Path
) -> dict[str, np.ndarray]:
    """New texts as raw inputs, the way the splits hold them.

    Raises:
        InputError: a text is empty, or bytes are not UTF-8.
    """
    decoded = []
    for position, text in enumerate(texts):
        try:
            plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        except UnicodeDecodeError as error:
            raise InputError(f"text {position}: is not UTF-8: {error.reason}") from None
        if not plain.strip():
            raise InputError(f"text {position}: is empty; it needs at least one word")
        decoded.append(without_surrogates(plain))
    inputs, _ = tokenization.tokenise(decoded, assets, config.max_tokens, info.details["pad_id"])
    return inputs
