"""The blocks of image models: timm's own groups, or what the nesting of a model's modules tells."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from trainables.blocks import Block

Unit = tuple[str, nn.Module | None]  # dotted path; None for a bare parameter

# A child with more than this share of the parameters before the head is the trunk, not a stage.
# (Of torchvision's models the largest stage, layer4 of ResNet-18, has 0.75; assumed for others.)
_TRUNK_SHARE = 0.9
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(model: nn.Module) -> tuple[Block, ...]:
    """The blocks of an image classifier, stem (or embeddings) first and head last.

    The paths of a block are in the order they run in, and modules without parameters are in the
    block they act in. The head is the last layer alone, with the dropout on its input: training
    only that is a linear probe. Where hidden layers come before it (VGG, MobileNetV3), they are the
    block "classifier". A final normalisation belongs to the last stage.
    """
    grouped = hasattr(model, "group_matcher")
    units, starts = _units_of_timm(model) if grouped else _units_of_torchvision(model)
    head = next(i for i, unit in enumerate(units) if unit[0] == head_layers(model)[0][0])
    while isinstance(units[head - 1][1], nn.Dropout):
        head -= 1
    hidden = [i for i in range(head) if isinstance(_bare(units[i][1]), nn.Linear)][:1]
    first = [0, *(start for start in starts if 0 < start < min([head, *hidden]))]
    sections = [units[a:b] for a, b in pairwise([*first, *hidden, head, len(units)])]
    names = [*_names(sections[: len(first)]), *(["classifier"] if hidden else []), "head"]
    return tuple(
        Block(name, tuple(path for path, _ in section))
        for name, section in zip(names, sections, strict=True)
    )


def head_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Paths and modules of the layers that give the logits; a distilled model has two."""
    if hasattr(model, "get_classifier"):
        found: Any = model.get_classifier()  # type: ignore[operator]
        wanted = found if isinstance(found, tuple | list) else [found]
        return [(path, m) for path, m in model.named_modules() if any(m is w for w in wanted)]
    *_, last = (unit for unit in _units(model, _opened(model)) if _size(unit[1]))
    return [last]


def _units(model: nn.Module, opened: Container[str], prefix: str = "") -> Iterator[Unit]:
    """The parts that blocks are made of, in the order they are defined in.

    Args:
        opened: paths of modules that are not a part as a whole: their children are.
    """
    parameters = [(f"{prefix}{name}", None) for name, _ in model.named_parameters(recurse=False)]
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if path in opened:
            # An encoder's own parameters (position embeddings) act before its layers, but after
            # what came before it.
            yield from _units(child, opened, f"{path}.")
        else:
            yield path, child
            yield from parameters
            parameters = []
    yield from parameters


def _units_of_timm(model: Any) -> tuple[list[Unit], list[int]]:
    """Units by timm's coarse groups, and where a group begins."""
    from timm.models import group_parameters

    groups: dict[str, float] = group_parameters(
        model, model.group_matcher(coarse=True), reverse=True
    )
    heads = head_layers(model)
    for path, head in heads:
        groups |= {f"{path}.{name}": float("inf") for name, _ in head.named_parameters()}

    def groups_below(path: str) -> set[float]:
        return {g for name, g in groups.items() if name == path or name.startswith(f"{path}.")}

    opened = {
        path
        for path, _ in model.named_modules()
        if len(groups_below(path)) > 1 or any(h.startswith(f"{path}.") for h, _ in heads)
    }
    ordered: list[tuple[float, Unit]] = []
    for unit in _units(model, opened):
        before = ordered[-1][0] if ordered else 0.0
        ordered.append((min(groups_below(unit[0]), default=before), unit))
    ordered.sort(key=lambda item: item[0])
    starts = [i for i in range(1, len(ordered)) if ordered[i][0] != ordered[i - 1][0]]
    units = [unit for _, unit in ordered]
    ends = [*starts[1:], len(units)]
    return units, [a for a, b in zip(starts, ends, strict=True) if _has_matrices(units[a:b])]


def _has_matrices(units: Sequence[Unit]) -> bool:
    """Whether there is more among ``units`` than normalisation and scales."""
    return any(m is None or any(p.dim() > 1 for p in m.parameters()) for _, m in units)


def _units_of_torchvision(model: nn.Module) -> tuple[list[Unit], list[int]]:
    """Units of the trunk and of the tail, and where a stage begins.

    A stage is a container of modules. Where there are none, it begins where the resolution falls;
    and where it does not fall, each module is a layer of its own.
    """
    units = list(_units(model, _opened(model)))
    inner = [i for i in range(1, len(units)) if _size(units[i][1])]
    stages = [i for i in inner if isinstance(units[i][1], _CONTAINERS)]
    falls = [i for i in inner if _reduces(units[i][1]) or _is_pool(units[i - 1][1])]
    layers = [i for i in inner if _is_nested(units[i][1])]
    return units, stages if len(stages) > 1 else falls or layers


def _opened(model: nn.Module) -> set[str]:
    """Paths of the tail, and of the trunk, which holds nearly all that comes before the tail."""
    *children, (tail, last) = [(n, child) for n, child in model.named_children() if _size(child)]
    opened = {tail} if _is_nested(last) else set()
    while children:
        path, largest = max(children, key=lambda item: _size(item[1]))
        share = _size(largest) / sum(_size(child) for _, child in children)
        if share < _TRUNK_SHARE or not _is_nested(largest):
            break
        opened.add(path)
        children = [(f"{path}.{n}", child) for n, child in largest.named_children()]
    return opened


def _is_nested(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.children())


def _bare(module: nn.Module | None) -> Any:
    """The layer in an adapter of peft's; any other module itself."""
    return getattr(module, "base_layer", module)


def _size(module: nn.Module | None) -> int:
    return 1 if module is None else sum(p.numel() for p in module.parameters())


def _is_pool(module: nn.Module | None) -> bool:
    return isinstance(module, nn.MaxPool2d | nn.Identity)  # the latter where a stem had its pool


def _reduces(module: nn.Module | None) -> bool:
    parts = [] if module is None else module.modules()
    return any(isinstance(part, nn.Conv2d) and max(part.stride) > 1 for part in parts)


def _names(sections: Sequence[Sequence[Unit]]) -> list[str]:
    first = [section[0] for section in sections]
    if len(sections) > 2 and len({_size(module) for _, module in first[1:]}) == 1:
        return ["embeddings", *(f"layer.{i}" for i in range(len(first) - 1))]
    names = [path.rpartition(".")[2] for path, _ in first]
    names = [f"stage{i}" if name.isdigit() else name for i, name in enumerate(names)]
    return ["stem", *names[1:]]
