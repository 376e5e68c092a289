"""Tasks whose inputs are texts: all of a ``Task`` but its data and its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainables.adapting import cut as cutting
from trainables.modalities.texts.backbones import blocks, build
from trainables.modalities.texts.text_data import encode
from trainables.task import Column, Cut, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from trainables.modalities.texts.config import TextConfig
    from trainables.prepared import Array, Batch, DataInfo, PreparedData
    from trainables.targets.target import Target

# Texts are padded to multiples of it in the prefix: fewer shapes, and few wasted positions.
_TOKENS_PER_GROUP = 16


def text_task(
    name: str,
    prepare: Callable[[Any, Path], PreparedData],
    target: Target,
    auto_class: str,
    encode: Callable[..., dict[str, Array]] = encode,
    **others: Any,
) -> Task:
    """The task ``name``: any model of transformers, on texts as ``prepare`` finds them.

    Args:
        prepare: gives splits with ``input_ids`` int32 [n, longest], ``length`` int32 [n], and the
            labels that ``target`` wants.
        auto_class: of transformers, for the model.
        others: fields of ``Task`` that differ from what texts usually have.
    """
    return Task(
        name=name,
        prepare=prepare,
        encode=encode,
        build=partial(build, auto_class=auto_class),
        blocks=blocks,
        transform=transform,
        forward=forward,
        loss=target.loss,
        meter=target.meter,
        decode=target.decode,
        artifacts=target.artifacts,
        column=Column("text", texts_or_lines, example_text, target.answer),
        cut=cut,
        **others,
    )


def transform(raw: Batch, config: TextConfig, info: DataInfo, generator: Generator | None) -> Batch:
    """Token ids trimmed to the longest text of the batch; texts are not augmented.

    Args:
        raw: ``input_ids`` [n, longest of the split] and ``length`` [n], int32.

    Returns:
        ``input_ids`` int64 and ``attention_mask`` int64, both [n, longest of the batch]; all else
            as it is.
    """
    return {**raw, **model_inputs(raw, None)}


def model_inputs(raw: Batch, n_positions: int | None) -> Batch:
    """What the model is called with, over ``n_positions``; None: over those of the longest text."""
    length = raw["length"].long()
    if n_positions is None:
        n_positions = int(length.max()) if len(length) else 0
    input_ids = raw["input_ids"][:, :n_positions].long()
    positions = torch.arange(input_ids.shape[1], device=length.device)
    return {"input_ids": input_ids, "attention_mask": (positions < length[:, None]).long()}


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Logits [n, outputs], or [n, positions, outputs] of a head that judges each token."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits: Tensor = model(**inputs).logits
    return logits


def cut(model: Any, k: int, config: TextConfig, info: DataInfo) -> Cut | None:
    """The model cut before block ``k``. The first block, the embeddings, runs in both parts.

    None where the parts would not give what the whole model gives, or where no layer comes before
    the cut.
    """
    if k < 2:
        return None
    own, raw = blocks(model), _two_texts(model)
    parts = cutting.cut(model, own[1:k], own[k:], forward, model_inputs(raw, _TOKENS_PER_GROUP))
    if parts is None:
        return None

    def prefix(raw: Batch, group: int, generators: Sequence[Generator] | None) -> Tensor:
        return parts.prefix(model_inputs(raw, group * _TOKENS_PER_GROUP))

    def suffix(activations: Tensor, raw: Batch | None) -> Any:
        assert raw is not None
        inputs = model_inputs(raw, None)
        if activations.dim() == 3:  # else each text is one vector by then
            activations = activations[:, : inputs["input_ids"].shape[1]]
        return parts.suffix(activations, inputs)

    inputs = model_inputs(raw, None)
    counts = inputs["attention_mask"].bool()
    if not cutting.is_whole(
        model, forward, inputs, lambda: suffix(prefix(raw, 1, None), raw), counts
    ):
        return None
    identity = f"{type(model).__name__} {own[k].paths} {model.config.to_json_string()}"
    return Cut(identity, _groups, prefix, suffix, suffix_needs_inputs=True)


def _groups(inputs: Mapping[str, Any]) -> np.ndarray:
    groups: np.ndarray = -(-inputs["length"].astype(np.int64) // _TOKENS_PER_GROUP)
    return groups


def _two_texts(model: Any) -> Batch:
    """Raw inputs of two texts that differ in length, and are both shorter than a group."""
    device: Any = next(model.parameters()).device
    ids = torch.arange(2 * _TOKENS_PER_GROUP, dtype=torch.int32) % model.config.vocab_size
    return {
        "input_ids": ids.view(2, _TOKENS_PER_GROUP).to(device),
        "length": torch.tensor([_TOKENS_PER_GROUP // 2, 3], dtype=torch.int32, device=device),
    }


def texts_or_lines(typed: Sequence[str]) -> list[tuple[str, Any]]:
    """The texts themselves; an existing file stands for the texts in its lines."""
    texts: list[str] = []
    for given in typed:
        try:
            is_file = Path(given).is_file()
        except OSError:  # a text too long for a file name
            is_file = False
        if is_file:
            lines = Path(given).read_text(encoding="utf-8-sig", errors="replace").splitlines()
            texts += [line for line in lines if line.strip()]
        else:
            texts.append(given)
    return [(text, text) for text in texts]


def example_text() -> str:
    """A text of a request."""
    return "an example of a text"
