"""What is known of image models before torch is imported: their names, and what was found of them.

``block_names`` has to make a model once, on torch's meta device. What it finds is kept in the
user's cache folder, so that no later check has to import torch, which takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
from contextlib import suppress
from pathlib import Path

from trainables.errors import InputError, unknown
from trainables.files import default_cache_folder, package_folder, write_whole
from trainables.modalities.images.config import ImageConfig

TIMM = "timm:"  # what the names of timm's models begin with
_REGISTERED = re.compile(
    r'^@register_model(?:\((?:name=)?(?:"(\w+)")?\).*?)?\s^def (\w+)', re.MULTILINE | re.DOTALL
)


@functools.cache
def model_names() -> tuple[str, ...]:
    """The models of the installed torchvision, and as ``timm:NAME`` of timm, from their sources."""
    return (*_registered_in("torchvision"), *(f"{TIMM}{name}" for name in _registered_in("timm")))


@functools.cache
def _registered_in(package: str) -> list[str]:
    files = (package_folder(package) / "models").glob("[!_]*.py")
    found = (m for file in files for m in _REGISTERED.findall(file.read_text(encoding="utf-8")))
    return sorted(name or function for name, function in found)


def check_model_name(model: str) -> None:
    """Raise InputError for the name of no model. timm's may end in a tag: ``timm:NAME.TAG``."""
    package = "timm" if model.startswith(TIMM) else "torchvision"
    if model.removeprefix(TIMM).partition(".")[0] not in _registered_in(package):
        raise InputError(unknown("model", model, model_names()))


def block_names(config: ImageConfig) -> tuple[str, ...]:
    """The names of the blocks that the configured model has.

    Raises:
        InputError: the model can not take images of this size, or has no stem to make small.
    """
    found = _found(config.model, config.image_size, config.stem, config.weights == "none")
    if isinstance(found, str):
        raise InputError(found)
    return tuple(found)


@functools.cache  # the many configurations of a search space rarely differ in these
def _found(model: str, image_size: int, stem: str, untrained: bool) -> list[str] | str:
    """Names of blocks, or what is wrong."""
    key = [model, image_size, stem, untrained, _versions()]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    path = default_cache_folder() / "image_models" / f"{digest}.json"
    with suppress(OSError, ValueError):
        kept: list[str] | str = json.loads(path.read_text())
        return kept
    from trainables.modalities.images.backbones import examine  # imports torch and torchvision

    found = examine(model, image_size, stem, untrained)
    with suppress(OSError):  # then it is found anew next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found))
    return found


@functools.cache
def _versions() -> list[str]:
    """Of all that decides what is found, our own code included."""
    sources = (Path(__file__).with_name(name) for name in ("backbones.py", "blocks.py"))
    return [
        *(importlib.metadata.version(name) for name in ("torch", "torchvision", "timm")),
        *(hashlib.sha256(source.read_bytes()).hexdigest() for source in sources),
    ]
