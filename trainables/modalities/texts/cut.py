"""A transformers encoder cut in two between its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from trainables.task import Cut

# Texts are padded to multiples of it in the prefix: fewer shapes, and few wasted positions.
_TOKENS_PER_GROUP = 16

# (raw inputs, positions to pad to, or None for the longest text's) -> model inputs
Transform = Callable[[dict[str, Tensor], int | None], dict[str, Tensor]]


class _Reached(Exception):
    """Ends a forward pass at the layer whose output is wanted."""


def cut(model: Any, layers: Sequence[nn.Module], k: int, transform: Transform) -> Cut | None:
    """Cut after the layers of the first ``k`` blocks, the first of which is the embeddings.

    The suffix is the model's own forward pass with those layers left out: whatever it computes
    beside them (masks, position biases), it computes itself. None where this would not give what
    the whole model gives, or where no layer comes before the cut.
    """
    frozen = layers[: k - 1]
    if not frozen:
        return None
    wraps: list[int | None] = []  # how long a tuple the layers return, None for a bare tensor

    def prefix(
        raw: dict[str, Tensor], group: int, generators: Sequence[Generator] | None
    ) -> Tensor:
        return _output_of(model, frozen[-1], transform(raw, group * _TOKENS_PER_GROUP))[0]

    def suffix(activations: Tensor, raw: dict[str, Tensor] | None) -> Tensor:
        assert raw is not None
        inputs = transform(raw, None)
        trimmed = activations[:, : inputs["input_ids"].shape[1]]
        result = trimmed if wraps[0] is None else (trimmed, *[None] * (wraps[0] - 1))
        with _returning(frozen, result):
            logits: Tensor = model(**inputs).logits
        return logits

    found = Cut(
        identity=f"{type(model).__name__} {len(frozen)} {model.config.to_json_string()}",
        groups=_groups,
        prefix=prefix,
        suffix=suffix,
        suffix_needs_inputs=True,
    )
    return found if _is_whole(found, model, frozen, transform, wraps) else None


def _groups(inputs: Mapping[str, Any]) -> np.ndarray:
    groups: np.ndarray = -(-inputs["length"].astype(np.int64) // _TOKENS_PER_GROUP)
    return groups


def _output_of(
    model: nn.Module, layer: nn.Module, inputs: dict[str, Tensor]
) -> tuple[Tensor, int | None]:
    """The hidden states [n, positions, width] that a layer gives, and how long a tuple they are
    in."""
    seen: list[Any] = []

    def stop(module: nn.Module, arguments: Any, output: Any) -> None:
        seen.append(output)
        raise _Reached

    handle = layer.register_forward_hook(stop)
    try:
        model(**inputs)
    except _Reached:
        pass
    finally:
        handle.remove()
    output = seen[0]
    return (output[0], len(output)) if isinstance(output, tuple) else (output, None)


@contextmanager
def _returning(layers: Sequence[nn.Module], result: Any) -> Iterator[None]:
    """Let ``layers`` return ``result`` instead of computing anything."""
    for layer in layers:
        layer.forward = lambda *args, **kwargs: result
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


@torch.no_grad()
def _is_whole(
    found: Cut,
    model: Any,
    frozen: Sequence[nn.Module],
    transform: Transform,
    wraps: list[int | None],
) -> bool:
    """Whether both parts together give what the model gives, on two texts of different lengths."""
    device: Any = next(model.parameters()).device
    ids = torch.arange(2 * _TOKENS_PER_GROUP, dtype=torch.int32) % model.config.vocab_size
    raw = {
        "input_ids": ids.view(2, _TOKENS_PER_GROUP).to(device),
        "length": torch.tensor([_TOKENS_PER_GROUP // 2, 3], dtype=torch.int32, device=device),
    }
    model.eval()
    try:
        hidden, length = _output_of(model, frozen[-1], transform(raw, None))
        wraps.append(length)
        if hidden.dim() != 3 or len(hidden) != 2:
            return False
        logits = found.suffix(found.prefix(raw, 1, None), raw)
    except Exception:  # a forward pass that is used in a way its author did not foresee
        return False
    whole: Tensor = model(**transform(raw, None)).logits
    return bool(torch.allclose(logits, whole, rtol=1e-3, atol=1e-5))
