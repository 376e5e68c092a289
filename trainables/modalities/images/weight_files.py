"""Weights for image models: torchvision's own, or a file's, held against the model."""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor, nn

from trainables.data.download import download
from trainables.errors import InputError
from trainables.modalities.images.config import ImageConfig

State = OrderedDict[str, Tensor]

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # what people save the weights under, beside an epoch, …
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_AUXILIARY = (
    "AuxLogits.",
    "aux1.",
    "aux2.",
)  # heads of the two Inceptions that only help their first training
# DenseNet's published files are older than its module names.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def weights_path(config: ImageConfig) -> Path | None:
    """The file that holds the configured weights, fetched first if need be; None for weights=none.

    Raises:
        InputError: torchvision's weights are not here and can not be reached.
    """
    if config.weights == "none":
        return None
    return (
        fetch_default(config.model)
        if config.weights == "default"
        else Path(config.weights).expanduser()
    )


def fetch_default(model: str) -> Path:
    """torchvision's weights for ``model`` in the cache of ``torch.hub``, fetched if need be."""
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
        content = _read(path)
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise InputError(
            f"weights = {str(path)!r}: can not be read as weights: {_why(error)}"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if (
        not isinstance(content, dict)
        or not all(isinstance(value, Tensor) for value in content.values())
        or not content
    ):
        raise InputError(
            f"weights = {str(path)!r}: must hold a state dict, tensors by parameter "
            f"name (or one under {', '.join(_WRAPPERS)}), and holds {_describe(content)}"
        )
    return _clean(content)


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


def _describe(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    return f"a dict with {', '.join(other[:5])}" if other else "an empty dict"


def _clean(content: dict[str, Tensor]) -> State:
    """Today's names for all tensors, and the modules' versions where the file tells them."""
    metadata = getattr(content, "_metadata", {})
    state = OrderedDict(content)
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())
            metadata = {
                key.removeprefix(prefix[:-1]).removeprefix("."): value
                for key, value in metadata.items()
            }
    state = OrderedDict(
        (_OLD_DENSENET.sub(r"\1\2.", key), value)
        for key, value in state.items()
        if not key.startswith(_AUXILIARY)
    )
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


def fill(model: nn.Module, state: State, head: str, source: str) -> None:
    """Fill ``model`` with ``state``; a layer at ``head`` of another shape stays as it is.

    Position embeddings of another image size are interpolated, as ViT's authors do
    (arXiv:2010.11929, section 3.2).

    Raises:
        InputError: anything is missing, left over, or of another shape.
    """
    state = _fit_positions(model, state)
    wanted = model.state_dict()
    differing = {
        key for key in state.keys() & wanted.keys() if state[key].shape != wanted[key].shape
    }
    replaced = {key for key in differing if key.startswith(f"{head}.")}
    if replaced:
        replaced = {key for key in wanted if key.startswith(f"{head}.")}
    metadata = getattr(state, "_metadata", {})
    kept = OrderedDict(
        (key, value) for key, value in state.items() if key not in differing | replaced
    )
    kept._metadata = metadata  # type: ignore[attr-defined]
    result = model.load_state_dict(kept, strict=False)
    problems = {
        "missing": [
            key
            for key in result.missing_keys
            # Files older than torch 0.4.1 have no such counters, and nothing here reads them.
            if key not in differing | replaced and not key.endswith("num_batches_tracked")
        ],
        "unknown": result.unexpected_keys,
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}"
            for key in wanted
            if key in differing - replaced
        ],
    }
    if any(problems.values()):
        raise InputError(
            f"{source}: " + "; ".join(_first(*item) for item in problems.items() if item[1])
        )


def _first(what: str, keys: Iterable[str], limit: int = 5) -> str:
    names = list(keys)
    return f"{len(names)} {what}: {', '.join(names[:limit])}" + (
        ", …" if len(names) > limit else ""
    )


def _fit_positions(model: nn.Module, state: State) -> State:
    key = "encoder.pos_embedding"
    if (
        not isinstance(model, torchvision.models.VisionTransformer)
        or key not in state
        or state[key].dim() != 3
    ):
        return state
    n_patches = state[key].shape[1] - 1
    if round(n_patches**0.5) ** 2 != n_patches:
        return state
    metadata = getattr(state, "_metadata", {})
    fitted: State = torchvision.models.vision_transformer.interpolate_embeddings(
        model.image_size, model.patch_size, OrderedDict(state)
    )
    fitted._metadata = metadata  # type: ignore[attr-defined]
    return fitted
