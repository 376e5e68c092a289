"""Weights of image models: read without running code of theirs, and held against the model."""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor, nn

from trainables.data.download import download
from trainables.errors import InputError, some

State = dict[str, Tensor]

# What people save the weights under, beside an epoch and the like.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
# Heads of the two Inceptions that only help their first training.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# DenseNet's published files are older than its module names.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def fetch_default(model: str) -> Path:
    """torchvision's weights for ``model`` in the cache of ``torch.hub``, fetched if need be.

    Raises:
        InputError: they are not here and can not be reached.
    """
    url = torchvision.models.get_model_weights(model).DEFAULT.url  # type: ignore[attr-defined]
    name = Path(urlsplit(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", name)  # as torch.hub reads it
    try:
        download(url, path, f"sha256:{digest.group(1) if digest else ''}")
    except OSError as error:
        raise InputError(
            f"weights = 'default': the weights of {model}, {name}, are not in "
            f"{str(path.parent)!r} and could not be fetched from {url}: {error}. Put the file "
            "there, or give a file with --set weights=PATH"
        ) from None
    return path


def read_weights(path: Path) -> State:
    """The tensors of a safetensors or torch file, by parameter name; runs no code from it.

    Raises:
        InputError: the file is missing, damaged, or holds something else than weights.
    """
    try:
        content: Any = _read(path)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise InputError(
            f"weights = {str(path)!r}: can not be read as weights: {_why(error)}"
        ) from None
    if not isinstance(content, dict):
        content = {f"a {type(content).__name__}": None}
    wrapped = (content[name] for name in _WRAPPERS if isinstance(content.get(name), dict))
    content = next(wrapped, content)
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other or not content:
        raise InputError(
            f"weights = {str(path)!r}: must hold a state dict, tensors by parameter name (or one "
            f"under {', '.join(_WRAPPERS)}), and holds "
            + (f"a dict with {', '.join(other[:5])}" if other else "an empty dict")
        )
    return _with_todays_names(content)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(path))  # mapped: all trainings of the machine share one copy
    # So are these, but for files from before torch 1.6, which are not zip archives.
    mapped = zipfile.is_zipfile(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _why(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0].partition(". ")[0]
    if "Weights only load failed" in text:
        return (
            "it holds more than tensors, or is damaged, and would have to run code to be read; "
            "save model.state_dict() instead of the model"
        )
    if isinstance(error, OSError):
        return error.strerror or text
    return f"it is damaged or of another format ({type(error).__name__}: {text})"


def _with_todays_names(state: State) -> State:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {
        _OLD_DENSENET.sub(r"\1\2.", key): value
        for key, value in state.items()
        if not key.startswith(_AUXILIARY)
    }


def fill(model: nn.Module, state: State, heads: Sequence[str], source: str) -> None:
    """Fill ``model`` with ``state``; layers at ``heads`` of another shape stay as they are.

    Position embeddings of another image size are interpolated, as ViT's authors do
    (arXiv:2010.11929, section 3.2).

    Raises:
        InputError: anything is missing, left over, or of another shape.
    """
    state = _fit_positions(model, state)
    wanted = model.state_dict()
    differing = {key for key in state.keys() & wanted if state[key].shape != wanted[key].shape}
    of_heads = {key for key in wanted for head in heads if key.startswith(f"{head}.")}
    left_out = differing | (of_heads if of_heads & differing else set())
    result = model.load_state_dict(
        {key: value for key, value in state.items() if key not in left_out}, strict=False
    )
    problems = {
        "missing": [
            key
            for key in result.missing_keys
            # Files older than torch 0.4.1 have no such counters, and nothing here reads them.
            if key not in left_out and not key.endswith("num_batches_tracked")
        ],
        "unknown": result.unexpected_keys,
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}"
            for key in wanted
            if key in differing - of_heads
        ],
    }
    if any(problems.values()):
        raise InputError(
            f"{source}: "
            + "; ".join(f"{len(v)} {what}: {some(v)}" for what, v in problems.items() if v)
        )


def _fit_positions(model: Any, state: State) -> State:
    of_torchvision = isinstance(model, torchvision.models.VisionTransformer)
    key = "encoder.pos_embedding" if of_torchvision else "pos_embed"
    given, wanted = state.get(key), model.state_dict().get(key)
    if given is None or wanted is None or given.shape == wanted.shape or given.dim() != 3:
        return state
    # How many embeddings are of no patch.
    n_others = 1 if of_torchvision else getattr(model, "num_prefix_tokens", 0)
    n_others *= not getattr(model, "no_embed_class", False)
    if (given.shape[1] - n_others) ** 0.5 % 1:
        return state  # of images that are not square
    if of_torchvision:
        return dict(
            torchvision.models.vision_transformer.interpolate_embeddings(
                model.image_size, model.patch_size, OrderedDict(state)
            )
        )
    from timm.layers import resample_abs_pos_embed

    side = round((wanted.shape[1] - n_others) ** 0.5)
    return {**state, key: resample_abs_pos_embed(given, [side, side], num_prefix_tokens=n_others)}
