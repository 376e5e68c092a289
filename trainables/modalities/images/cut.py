"""A torchvision model cut in two between its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor, fx, nn

from trainables.blocks import Block
from trainables.modalities.images.blocks import blocks
from trainables.task import Cut

if TYPE_CHECKING:
    from trainables.modalities.images.config import ImageConfig

Transform = Callable[[dict[str, Tensor], Generator | None], dict[str, Tensor]]


def cut(model: nn.Module, k: int, config: ImageConfig, transform: Transform) -> Cut | None:
    """Cut before block ``k``; None if more than one tensor crosses there, or none of the images."""
    all_blocks = blocks(model)
    try:
        graph = _Tracer(all_blocks).trace(model)
    except Exception:  # a model of a later torchvision: tracing user code may raise anything
        return None
    late = _late_nodes(graph, all_blocks, k)
    crossing = list(
        dict.fromkeys(
            node
            for user in graph.nodes
            if user in late
            for node in user.all_input_nodes
            if node not in late
        )
    )
    if len(crossing) != 1:
        return None
    prefix = fx.GraphModule(model, _prefix_graph(graph, crossing[0], late))
    suffix = fx.GraphModule(model, _suffix_graph(graph, crossing[0], late))
    if not _is_whole(model, prefix, suffix, config):
        return None

    def early(raw: dict[str, Tensor], group: int, generators: Sequence[Generator] | None) -> Tensor:
        activations: Tensor = prefix(_images(raw, generators, transform))
        return activations

    modules = {path: model.get_submodule(path) for path in _called(prefix.graph)}
    return Cut(
        identity=f"{prefix.graph}\n{modules}",
        groups=_one_group,
        prefix=early,
        suffix=lambda activations, raw: suffix(activations),
        suffix_needs_inputs=False,
    )


def _images(
    raw: dict[str, Tensor], generators: Sequence[Generator] | None, transform: Transform
) -> Tensor:
    if generators is None:
        return transform(raw, None)["image"]
    # One by one: the changes to an image then never depend on which others are with it.
    singles = [
        transform({"image": raw["image"][i : i + 1]}, generator)["image"]
        for i, generator in enumerate(generators)
    ]
    return torch.cat(singles)


def _one_group(inputs: Mapping[str, Any]) -> np.ndarray:
    """All images of a split are of one size."""
    return np.zeros(len(inputs["image"]), dtype=np.int64)


class _Tracer(fx.Tracer):
    """Follows a model's own forward, and calls the parts that blocks are made of as they are."""

    def __init__(self, all_blocks: Sequence[Block]) -> None:
        super().__init__()
        self._parts = {path for block in all_blocks for path in block.paths}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._parts


def _late_nodes(graph: fx.Graph, all_blocks: Sequence[Block], k: int) -> set[fx.Node]:
    """What can only be computed with block k or a later one; all else belongs to the prefix."""
    late: set[fx.Node] = set()
    for node in graph.nodes:
        uses_block = node.op in ("call_module", "get_attr") and any(
            block.holds(node.target) for block in all_blocks[k:]
        )
        if uses_block or node.op == "output" or late.intersection(node.all_input_nodes):
            late.add(node)
    return late


def _prefix_graph(graph: fx.Graph, last: fx.Node, late: set[fx.Node]) -> fx.Graph:
    part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        if node not in late:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[last])
    return part


def _suffix_graph(graph: fx.Graph, first: fx.Node, late: set[fx.Node]) -> fx.Graph:
    part = fx.Graph()
    copies = {first: part.placeholder("activations")}
    for node in graph.nodes:
        if node in late:
            copies[node] = part.node_copy(node, copies.__getitem__)
    return part


def _called(graph: fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


@torch.no_grad()
def _is_whole(model: nn.Module, prefix: nn.Module, suffix: nn.Module, config: ImageConfig) -> bool:
    """Whether the two parts together give what the model gives, on two images of noise."""
    device: Any = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, config.image_size, config.image_size)
    images = torch.rand(shape, generator=generator).to(device)
    model.eval()
    activations = prefix(images)
    if not isinstance(activations, Tensor) or activations.shape[0] != len(images):
        return False
    whole: Tensor = model(images)
    return bool(torch.allclose(suffix(activations), whole, rtol=1e-3, atol=1e-5))
