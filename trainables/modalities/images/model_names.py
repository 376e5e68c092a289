"""What is known of torchvision's models before torch is imported: names, blocks, stems, sizes."""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.errors import InputError
from trainables.modalities.images.config import ImageConfig

# Up to this size in pixels, stem=auto means small. A standard stem and four stages divide the
# resolution by 32; at 48 pixels that leaves the last stage less than 2x2 positions. 64 and more is
# commonly trained with the standard stem. Assumed, not measured.
SMALL_STEM_UP_TO = 48


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    ``stem`` is "strided" where the first convolution skips pixels, "patches" where it cuts the
    image up, and "full" where it keeps the resolution. ``smallest`` is the least image size with a
    standard and with a small stem.
    """

    pattern: str
    blocks: tuple[str, ...]
    stem: Literal["strided", "patches", "full"] = "strided"
    smallest: tuple[int, int] = (1, 1)
    multiple_of: int = 1


def _stages(n: int, name: str = "stage", first: int = 1) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for number in range(first, first + n))


def _vit(size: str, n_layers: int, patch: int) -> Family:
    layers = _stages(n_layers, "layer.", 0)
    return Family(
        rf"vit_{size}_{patch}", ("embeddings", *layers, "head"), "patches", (patch, patch), patch
    )


# Held against the models themselves by tests/test_image_classification.py.
FAMILIES = (
    Family(r"(wide_)?resnet.*|resnext.*", ("stem", *_stages(4, "layer"), "head")),
    Family(r"alexnet", ("stem", *_stages(2), "classifier", "head"), smallest=(63, 7)),
    Family(r"convnext_.*", ("stem", *_stages(4), "head"), "patches", (32, 32)),
    Family(r"densenet\d+", ("stem", *_stages(4), "head"), smallest=(29, 8)),
    Family(r"efficientnet_v2_s", ("stem", *_stages(7), "head")),
    Family(r"efficientnet_.*", ("stem", *_stages(8), "head")),
    Family(
        r"googlenet", ("stem", "inception3", "inception4", "inception5", "head"), smallest=(15, 4)
    ),
    Family(r"inception_v3", ("stem", "Mixed_5", "Mixed_6", "Mixed_7", "head"), smallest=(75, 19)),
    Family(r"maxvit_t", ("stem", *_stages(4), "classifier", "head"), "patches", (224, 224), 224),
    Family(r"mnasnet.*", ("stem", *_stages(7), "head")),
    Family(r"mobilenet_v2", ("stem", *_stages(4), "head")),
    Family(r"mobilenet_v3_.*", ("stem", *_stages(4), "classifier", "head")),
    Family(r"regnet_.*", ("stem", *_stages(4), "head")),
    Family(r"shufflenet_.*", ("stem", "stage2", "stage3", "stage4", "conv5", "head")),
    Family(r"squeezenet1_0", ("stem", *_stages(3), "head"), smallest=(21, 4)),
    Family(r"squeezenet1_1", ("stem", *_stages(3), "head"), smallest=(17, 4)),
    Family(r"swin_.*", ("stem", *_stages(4), "head"), "patches", (4, 4)),
    Family(r"vgg.*", ("stem", *_stages(4), "classifier", "head"), "full", (32, 32)),
    _vit("b", 12, 16),
    _vit("b", 12, 32),
    _vit("l", 24, 16),
    _vit("l", 24, 32),
    _vit("h", 32, 14),
)

_NO_SMALL_STEM = {
    "patches": "cuts the image into patches, so it has no stem that could keep the resolution",
    "full": "keeps the resolution in its stem as it is",
}


@functools.cache
def model_names() -> tuple[str, ...]:
    """The installed torchvision's classification models, from its sources: importing takes 10 s."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.submodule_search_locations
    registered = re.compile(
        r'^@register_model\((?:name=)?(?:"(\w+)")?\).*?^def (\w+)', re.MULTILINE | re.DOTALL
    )
    files = (Path(spec.submodule_search_locations[0]) / "models").glob("[!_]*.py")
    found = (
        match for file in files for match in registered.finditer(file.read_text(encoding="utf-8"))
    )
    return tuple(sorted(name or function for name, function in (match.groups() for match in found)))


def family_of(model: str) -> Family | None:
    """The family of a model, or None for one that came with a later torchvision than this table."""
    return next((family for family in FAMILIES if re.fullmatch(family.pattern, model)), None)


def wants_small_stem(config: ImageConfig) -> bool:
    """Whether the stem is to keep the resolution of the images.

    Raises:
        InputError: it should, but this model's can not.
    """
    family = family_of(config.model)
    if config.stem == "small" and family is not None and family.stem in _NO_SMALL_STEM:
        raise InputError(no_small_stem(config.model, _NO_SMALL_STEM[family.stem]))
    if config.stem == "auto":
        return (
            config.image_size <= SMALL_STEM_UP_TO
            and family is not None
            and family.stem == "strided"
        )
    return config.stem == "small"


def no_small_stem(model: str, why: str) -> str:
    """The message for a model whose stem is what it is."""
    return f"stem = 'small': {model} {why}; valid for it: 'auto', 'standard'"


def check_image_size(config: ImageConfig) -> None:
    """Raise InputError for an image size known not to suit the model."""
    family = family_of(config.model)
    if family is None:
        return
    small = wants_small_stem(config)
    smallest = family.smallest[small]
    if config.image_size % family.multiple_of:
        below = config.image_size // family.multiple_of * family.multiple_of
        near = [str(size) for size in (below, below + family.multiple_of) if 0 < size <= 1024]
        raise InputError(
            f"image_size = {config.image_size}: {config.model} needs a multiple of "
            f"{family.multiple_of}; nearest: {', '.join(near)}"
        )
    if config.image_size < smallest:
        stem = ""
        if family.stem == "strided":
            stem = " with a small stem" if small else " with a standard stem"
        hint = ", or stem=small" if not small and config.image_size >= family.smallest[1] else ""
        raise InputError(
            f"image_size = {config.image_size}: {config.model}{stem} needs at least {smallest} "
            "pixels, or its pooling leaves nothing of the image; "
            f"valid: image_size={smallest} and more{hint}"
        )
