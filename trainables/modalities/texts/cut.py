"""A transformers model cut in two between its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from trainables.adapting import cut as cutting
from trainables.adapting.cut import Forward, Inputs
from trainables.blocks import Block
from trainables.task import Cut

# Texts are padded to multiples of it in the prefix: fewer shapes, and few wasted positions.
_TOKENS_PER_GROUP = 16

# (raw inputs, positions to pad to, or None for the longest text's) -> model inputs
Transform = Callable[[Inputs, int | None], Inputs]


def cut(
    model: Any, blocks: Sequence[Block], k: int, transform: Transform, forward: Forward
) -> Cut | None:
    """Cut before block ``k``. The first block, the embeddings, runs in both parts.

    None where the parts would not give what the whole model gives, or where no layer comes before
    the cut.
    """
    if k < 2:
        return None
    raw = _two_texts(model)
    one_group = transform(raw, _TOKENS_PER_GROUP)
    parts = cutting.cut(model, blocks[1:k], blocks[k:], forward, one_group)
    if parts is None:
        return None
    identity = f"{type(model).__name__} {blocks[k].paths} {model.config.to_json_string()}"
    found = _cut_of(parts, transform, identity)
    inputs = transform(raw, None)
    is_whole = cutting.is_whole(
        model,
        forward,
        inputs,
        lambda: found.suffix(found.prefix(raw, 1, None), raw),
        inputs["attention_mask"].bool(),
    )
    return found if is_whole else None


def _cut_of(parts: cutting.Parts, transform: Transform, identity: str) -> Cut:
    def prefix(raw: Inputs, group: int, generators: Sequence[Generator] | None) -> Tensor:
        return parts.prefix(transform(raw, group * _TOKENS_PER_GROUP))

    def suffix(activations: Tensor, raw: Inputs | None) -> Any:
        assert raw is not None
        inputs = transform(raw, None)
        if activations.dim() == 3:  # else each text is one vector by then
            activations = activations[:, : inputs["input_ids"].shape[1]]
        return parts.suffix(activations, inputs)

    return Cut(identity, _groups, prefix, suffix, suffix_needs_inputs=True)


def _groups(inputs: Mapping[str, Any]) -> np.ndarray:
    groups: np.ndarray = -(-inputs["length"].astype(np.int64) // _TOKENS_PER_GROUP)
    return groups


def _two_texts(model: Any) -> Inputs:
    """Raw inputs of two texts that differ in length, and are both shorter than a group."""
    device: Any = next(model.parameters()).device
    ids = torch.arange(2 * _TOKENS_PER_GROUP, dtype=torch.int32) % model.config.vocab_size
    return {
        "input_ids": ids.view(2, _TOKENS_PER_GROUP).to(device),
        "length": torch.tensor([_TOKENS_PER_GROUP // 2, 3], dtype=torch.int32, device=device),
    }
