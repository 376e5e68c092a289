"""Pretrained transformers as local folders: a user's own, or a hub model in the local cache.

Everything downstream sees a folder, so loading a hub model and a local one is the same code.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.errors import InputError, first_line

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PROBE_SECONDS = 10  # huggingface_hub's own default for one request
# One of each group must be there. Weights are read as safetensors, or as a state dict with
# torch.load(weights_only=True); nothing else is downloaded, no code and no other pickles.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What torch.save wrote before version 1.6: a pickled number, as torch.serialization has it.
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# Encoders, which see the words on both sides, unless config.json says is_decoder.
_ENCODERS = {
    *("albert", "bert", "big_bird", "camembert", "data2vec-text", "deberta", "deberta-v2"),
    *("distilbert", "electra", "ernie", "esm", "funnel", "longformer", "megatron-bert"),
    *("mobilebert", "modernbert", "mpnet", "nystromformer", "rembert", "roberta"),
    *("roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm-roberta"),
    *("xlm-roberta-xl", "xmod"),
}
# These number positions from padding_id + 1, so that many of them are never used.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}


def local_folder(model: str) -> Path | None:
    """The folder ``model`` means, or None where it is a name on the hub. Reads only the disk.

    Raises:
        InputError: it is a path to nothing, or to a folder that lacks something; or no name at all.
    """
    path = Path(model).expanduser()
    if not path.exists():
        if model.startswith((".", "/", "~")) or "\\" in model:
            raise InputError(f"model = {model!r}: no such folder")
        if not _HUB_NAME.fullmatch(model):
            raise InputError(
                f"model = {model!r}: neither a folder nor a Hugging Face name (NAME or OWNER/NAME)"
            )
        return None
    missing = _missing(path)
    if missing:
        raise InputError(
            f"model = {model!r}: this folder holds no {' and no '.join(missing)}; a model folder as"
            " save_pretrained writes it has config.json, weights and tokenizer files"
            if path.is_dir()
            else f"model = {model!r}: must be a folder with config.json, weights and tokenizer"
        )
    return path


def _missing(folder: Path) -> list[str]:
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    for what, names in (("weights", _WEIGHTS), ("tokenizer", _TOKENIZERS)):
        if not any((folder / name).is_file() for name in names):
            missing.append(f"{what} ({names[0]})")
    return missing


def check_weights(folder: Path, model: str) -> None:
    """See whether the weights of a model folder are whole, from their headers; loads nothing.

    Raises:
        InputError: a file is cut short, or of another format than its name says.
    """
    from safetensors import SafetensorError, safe_open

    safetensors = sorted(folder.glob("model*.safetensors"))
    for path in safetensors or sorted(folder.glob("pytorch_model*.bin")):
        try:
            if safetensors:
                with safe_open(path, framework="numpy"):
                    continue
            with path.open("rb") as file:
                whole = zipfile.is_zipfile(file)  # its index is at the end
                file.seek(0)
                whole = whole or file.read(len(_TORCH_MAGIC)) == _TORCH_MAGIC
            reason = "" if whole else "it is no file of torch's"
        except (SafetensorError, OSError) as error:
            reason = str(error)
        if reason:
            raise InputError(
                f"model = {model!r}: its weights {path.name} are damaged or of another format: "
                f"{reason}"
            )


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a model folder that decide how texts become tokens."""
    extra = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
    paths = (folder / name for name in (*_TOKENIZERS, *extra))
    return [path for path in paths if path.is_file()]


def read_config(folder: Path, model: str) -> Mapping[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        InputError: it is not a model's configuration.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model = {model!r}: its config.json can not be read: {error}") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"model = {model!r}: its config.json names no model_type")
    return config


def n_layers(config: Mapping[str, Any]) -> int | None:
    """How many layers with weights of their own the encoder has, if its configuration tells."""
    # ALBERT runs each group of layers several times over the same weights.
    names = ("num_hidden_groups", "num_hidden_layers", "n_layers", "n_layer")
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int)), None)


def sees_ahead(config: Mapping[str, Any]) -> bool:
    """Whether the model is known to see what follows a token, which it then can not learn to
    predict."""
    return config["model_type"] in _ENCODERS and not config.get("is_decoder")


def max_positions(config: Mapping[str, Any]) -> int | None:
    """The longest input the model can read, if its configuration tells and it has a limit."""
    limit = config.get("max_position_embeddings")
    if "relative_attention_num_buckets" not in config:  # T5's n_positions limits nothing
        limit = config.get("n_positions", limit)  # GPT-2's name for it
    if not isinstance(limit, int) or limit < 1 or config.get("position_biased_input") is False:
        return None  # DeBERTa sees relative positions only
    if config["model_type"] in _OFFSET_POSITIONS:
        return limit - int(config.get("pad_token_id") or 1) - 1
    return limit


def fetch(model: str) -> Path:
    """The folder of ``model``, downloaded into the Hugging Face cache if it is not there yet.

    What is in the cache is used as it is, without asking the hub for a newer version: all trials of
    a sweep then start from the same weights.

    Raises:
        InputError: it is in neither place, or the hub can not be reached; at once when there is no
            network (transformers' own retries take 23 s for each file).
    """
    folder = local_folder(model)
    if folder is not None:
        return folder
    from huggingface_hub import constants, snapshot_download

    try:
        cached = Path(snapshot_download(model, local_files_only=True))
        if not _missing(cached):
            return cached
    except OSError:
        pass  # nothing of it in the cache
    try:
        return _download(model)
    except InputError:
        raise
    except Exception as error:  # the hub's client passes on whatever its transport raises
        where = Path(constants.HF_HUB_CACHE)
        raise InputError(
            f"model = {model!r}: not in the local Hugging Face cache ({where}), and "
            f"{_explain(error)}. Give a local folder with config.json, weights and tokenizer files "
            "instead: --set model=PATH"
        ) from error


def _explain(error: Exception) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    explanations = {
        OfflineModeIsEnabled: "HF_HUB_OFFLINE forbids looking on the hub",
        GatedRepoError: "the hub wants its conditions accepted first (then: hf auth login)",
        RepositoryNotFoundError: "the hub has no model of this name, or it is private",
        HfHubHTTPError: f"the hub refused: {first_line(error)}",
    }
    known = next((text for kind, text in explanations.items() if isinstance(error, kind)), None)
    return known or f"the hub can not be reached ({type(error).__name__}: {first_line(error)})"


def _download(model: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    # One question, without retries, before anything that retries.
    found = HfApi().model_info(model, timeout=_PROBE_SECONDS)
    names = {file.rfilename for file in found.siblings or ()}
    weights = "model*.safetensors" if names & set(_WEIGHTS[:2]) else "pytorch_model*.bin"
    folder = Path(
        snapshot_download(
            model,
            allow_patterns=["*.json", "*.txt", "*.model", weights],
            ignore_patterns=["*/*"],  # other formats of the same weights
        )
    )
    missing = _missing(folder)
    if missing:
        raise InputError(f"model = {model!r}: the hub's files hold no {' and no '.join(missing)}")
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and of transformers' log only errors: we report what matters ourselves."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
