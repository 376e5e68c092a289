"""The blocks of torchvision's classification models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from trainables.blocks import Block

# Containers that are not a block, or a part of one, as a whole: their children are.
_OPENED = (
    "features",
    "layers",
    "trunk_output",
    "blocks",
    "encoder",
    "encoder.layers",
    "classifier",
    "heads",
)

Unit = tuple[str, nn.Module | None]  # dotted path; None for a bare parameter


def blocks(model: nn.Module) -> tuple[Block, ...]:
    """The blocks of any torchvision classification model, stem (or embeddings) first and head last.

    The paths of a block are in the order they run in, and modules without parameters are in the
    block they act in. The head is the last layer alone, with the dropout on its input: training
    only that is a linear probe. Where hidden layers come before it (VGG, MobileNetV3), they are the
    block "classifier". A final normalisation belongs to the last stage.
    """
    units = list(_units(model))
    starts = dict(_CUTS.get(type(model).__name__, _every_unit)(units))
    head = max(index for index, (_, module) in enumerate(units) if _has_parameters(module))
    while isinstance(units[head - 1][1], nn.Dropout):
        head -= 1
    hidden = [
        i for i in range(head) if _is_classifier(units[i][0]) and isinstance(units[i][1], nn.Linear)
    ]
    starts = {index: name for index, name in starts.items() if index < min([head, *hidden])}
    starts |= dict.fromkeys(hidden[:1], "classifier") | {head: "head"}
    ends = [*sorted(starts)[1:], len(units)]
    return tuple(
        Block(starts[start], tuple(path for path, _ in units[start:end]))
        for start, end in zip(sorted(starts), ends, strict=True)
    )


def _units(model: nn.Module, prefix: str = "") -> Iterator[Unit]:
    """The parts that blocks are made of, in the order they run in."""
    parameters = [(f"{prefix}{name}", None) for name, _ in model.named_parameters(recurse=False)]
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if path in _OPENED and not isinstance(child, nn.Linear):
            # An encoder's own parameters (position embeddings) act before its layers, but after
            # what came before it.
            yield from _units(child, f"{path}.")
        else:
            yield path, child
            yield from parameters
            parameters = []
    yield from parameters


def _has_parameters(module: nn.Module | None) -> bool:
    return module is None or any(True for _ in module.parameters())


def last_layer(model: nn.Module) -> tuple[str, Any]:
    """Path and module of the layer that gives the logits."""
    return [unit for unit in _units(model) if _has_parameters(unit[1])][-1]


def _is_classifier(path: str) -> bool:
    return path.startswith(("classifier.", "heads."))


def _by_name(*rules: tuple[str, str]) -> Callable[[list[Unit]], dict[int, str]]:
    """A block begins at the first unit that a rule gives its name; other units continue it."""

    def starts(units: list[Unit]) -> dict[int, str]:
        names: dict[str, int] = {}
        for index, (path, _) in enumerate(units):
            for pattern, name in rules:
                if match := re.fullmatch(pattern, path):
                    names.setdefault(match.expand(name), index)
                    break
        return {index: name for name, index in names.items()}

    return starts


def _after_pools(units: list[Unit]) -> dict[int, str]:
    # An Identity is where a small stem had its pooling.
    cuts = [
        i + 1
        for i, (_, module) in enumerate(units)
        if isinstance(module, nn.MaxPool2d | nn.Identity)
    ]
    inner = [cut for cut in cuts if units[cut][0].startswith("features.")]
    return {0: "stem"} | {cut: f"stage{number}" for number, cut in enumerate(inner, 1)}


def _at_strides(units: list[Unit]) -> dict[int, str]:
    cuts = [
        i
        for i, (_, module) in enumerate(units)
        if i > 0 and module is not None and _reduces(module)
    ]
    return {0: "stem"} | {cut: f"stage{number}" for number, cut in enumerate(cuts, 1)}


def _reduces(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) and max(part.stride) > 1 for part in module.modules())


def _every_unit(units: list[Unit]) -> dict[int, str]:
    """For models of later torchvision versions than this table knows."""
    return {i: path for i, (path, module) in enumerate(units) if _has_parameters(module)} | {
        0: "stem"
    }


_STAGES = (("features.0", "stem"), ("features.1", "stage1"))
_MERGED_STAGES = (
    *_STAGES,
    ("features.2", "stage2"),
    ("features.4", "stage3"),
    ("features.6", "stage4"),
)
_CUTS: Mapping[str, Callable[[list[Unit]], dict[int, str]]] = {
    "AlexNet": _after_pools,
    "ConvNeXt": _by_name(*_MERGED_STAGES),  # the layer that halves the resolution begins a stage
    "DenseNet": _by_name(("features.conv0", "stem"), (r"features\.denseblock(\d)", r"stage\1")),
    "EfficientNet": _by_name(_STAGES[0], (r"features\.(\d)", r"stage\1")),
    "GoogLeNet": _by_name(("conv1", "stem"), (r"(inception\d)\w", r"\1")),
    "Inception3": _by_name(("Conv2d_1a_3x3", "stem"), (r"(Mixed_\d)\w", r"\1")),
    "MNASNet": _by_name(
        (r"layers\.0", "stem"), *((rf"layers\.{i + 7}", f"stage{i}") for i in range(1, 8))
    ),
    "MaxVit": _by_name(("stem", "stem"), *((rf"blocks\.{i}", f"stage{i + 1}") for i in range(4))),
    "MobileNetV2": _at_strides,
    "MobileNetV3": _at_strides,
    "RegNet": _by_name(("stem", "stem"), (r"trunk_output\.block(\d)", r"stage\1")),
    "ResNet": _by_name(("conv1", "stem"), (r"layer\d", r"\g<0>")),
    "ShuffleNetV2": _by_name(("conv1", "stem"), (r"stage\d|conv5", r"\g<0>")),
    "SqueezeNet": _after_pools,
    "SwinTransformer": _by_name(*_MERGED_STAGES),
    "VGG": _after_pools,
    "VisionTransformer": _by_name(
        ("conv_proj", "embeddings"), (r"encoder\.layers\.encoder_layer_(\d+)", r"layer.\1")
    ),
}
