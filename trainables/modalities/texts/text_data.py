"""Texts as token ids: checked before anything starts, made once per machine. Torch-free."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.data.prepare import Made, Make, file_identity, prepare_once
from trainables.data.text_encoding import without_surrogates
from trainables.errors import InputError
from trainables.modalities.texts import pretrained, tokenization
from trainables.modalities.texts.config import TextConfig
from trainables.modalities.texts.scratch import scratch_model
from trainables.prepared import Array, DataInfo, PreparedData
from trainables.strategies import check_block_numbers


def check_model(config: TextConfig) -> None:
    """See in milliseconds, without torch and network, whether the model suits the configuration.

    Raises:
        InputError: the model is not there, has too few blocks or positions, or sees the token that
            it is to predict.
    """
    row = scratch_model(config.model)
    if row is not None:
        _check(config, {"model_type": row.model_type, "num_hidden_layers": row.n_layers})
    elif (folder := pretrained.local_folder(config.model)) is not None:
        _check(config, pretrained.read_config(folder, config.model))


def fetch(config: TextConfig) -> None:
    """Make a hub model's weights and tokenizer local, so that no worker has to.

    Raises:
        InputError: it is not in the cache and the hub can not be reached, or it does not suit.
    """
    if scratch_model(config.model) is None:
        folder = pretrained.fetch(config.model)
        _check(config, pretrained.read_config(folder, config.model))
        pretrained.check_weights(folder, config.model)


def _check(config: TextConfig, about: Mapping[str, Any]) -> None:
    """See whether a model of which ``config.json`` says ``about`` suits."""
    if config.PREDICTS_NEXT and pretrained.sees_ahead(about):
        raise InputError(
            f"model = {config.model!r}: is an encoder ({about['model_type']}), which sees the token"
            " it is to predict; valid: scratch:gpt2-mini, or a model of language such as GPT-2 or"
            " Llama"
        )
    n_layers, positions = pretrained.n_layers(about), pretrained.max_positions(about)
    if n_layers is not None:
        layers = (f"layer.{i}" for i in range(n_layers))
        check_block_numbers(config, ["embeddings", *layers, "head"])
    if positions is not None and config.max_tokens > positions:
        raise InputError(
            f"max_tokens = {config.max_tokens}: must be at most {positions}, the positions of model"
            f" {config.model!r}"
        )


def prepare_tokens(
    config: TextConfig, files: Iterable[Path], cache_folder: Path, make: Make
) -> PreparedData:
    """What ``make(assets)`` makes of ``files`` for the model of ``config``, once per machine.

    Imports neither torch nor transformers when the data is prepared already, or for scratch models.

    Raises:
        InputError: as ``fetch`` and ``make``.
    """

    def fetch_and_make(assets: Path) -> Made:
        fetch(config)  # first, so that a model out of reach is said before the files are read
        return make(assets)

    folder = None if scratch_model(config.model) else pretrained.local_folder(config.model)
    identity = {name: getattr(config, name) for name in config.DATA_FIELDS}
    identity["files"] = [file_identity([path]) for path in files]
    if folder is not None:
        model_files = [*pretrained.tokenizer_files(folder), folder / "config.json"]
        identity["model_files"] = file_identity(model_files)
    return prepare_once(cache_folder, identity, fetch_and_make)


def make_tokenizer(config: TextConfig, texts: Sequence[str], assets: Path) -> dict[str, Any]:
    """Put the model's tokenizer into ``assets``, or one learned from ``texts`` for scratch models.

    Returns:
        ``pad_id``, ``end_id`` and ``vocabulary_size``, which the model is built with.
    """
    scratch = scratch_model(config.model)
    if scratch is not None:
        scratch.train_tokenizer(texts, scratch.n_tokens, assets)
        pad_id = end_id = 0
    else:
        folder = pretrained.fetch(config.model)
        pad_id, end_id = tokenization.save_tokenizer(folder, assets, config.model)
        # With the architecture beside it, a checkpoint needs nothing from the original folder.
        (assets / "model").mkdir()
        shutil.copyfile(folder / "config.json", assets / "model" / "config.json")
    size = tokenization.vocabulary_size(assets)
    return {"pad_id": pad_id, "end_id": end_id, "vocabulary_size": size}


def encode(
    texts: Sequence[bytes | str], config: TextConfig, info: DataInfo, assets: Path
) -> dict[str, Array]:
    """New texts as raw arrays, the way the splits hold them.

    Raises:
        InputError: a text is empty, or bytes are not UTF-8.
    """
    decoded = [decode_text(position, text) for position, text in enumerate(texts)]
    inputs, _ = tokenization.tokenise(decoded, assets, config.max_tokens, info.details["pad_id"])
    return dict(inputs)


def decode_text(position: int, text: bytes | str) -> str:
    """A text of a request as we take it; ``position`` is for messages."""
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise InputError(f"text {position}: is not UTF-8: {error.reason}") from None
    if not plain.strip():
        raise InputError(f"text {position}: is empty; it needs at least one word")
    return without_surrogates(plain)
