"""Tasks whose inputs are texts: all of a ``Task`` but its data and its target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainables.modalities.texts.backbones import Head, blocks, build
from trainables.modalities.texts.cut import cut as cut_between_layers
from trainables.modalities.texts.text_data import encode
from trainables.task import Column, Cut, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from trainables.modalities.texts.config import TextConfig
    from trainables.prepared import Batch, DataInfo, PreparedData
    from trainables.targets.target import Target


def text_task(
    name: str,
    prepare: Callable[[Any, Path], PreparedData],
    target: Target,
    head: Head,
    **others: Any,
) -> Task:
    """The task ``name``: any model of transformers, on texts as ``prepare`` finds them.

    Args:
        prepare: gives splits with ``input_ids`` int32 [n, longest], ``length`` int32 [n], and the
            labels that ``target`` wants.
        others: fields of ``Task`` that differ from what texts usually have.
    """
    parts: dict[str, Any] = {
        "encode": encode,
        "column": Column("text", "string", texts_or_lines, example_text, target.answer),
        "loss": target.loss,
        "meter": target.meter,
        "decode": target.decode,
        "artifacts": target.artifacts,
        **others,
    }
    return Task(
        name=name,
        prepare=prepare,
        build=partial(build, head=head),
        blocks=blocks,
        transform=transform,
        forward=forward,
        cut=cut,
        **parts,
    )


def per_text(info: DataInfo) -> dict[str, Any]:
    """A classifier's settings: its classes by name."""
    labels = dict(enumerate(info.classes))
    return {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}


def no_settings(info: DataInfo) -> dict[str, Any]:
    """The model's own."""
    return {}


def one_number(info: DataInfo) -> dict[str, Any]:
    """One output, without a name."""
    return {"num_labels": 1}


CLASSES_OF_TEXTS = Head("AutoModelForSequenceClassification", per_text)
TAGS_OF_TOKENS = Head("AutoModelForTokenClassification", per_text)
NEXT_TOKEN = Head("AutoModelForCausalLM", no_settings, is_new=False)
NUMBER_OF_A_TEXT = Head("AutoModelForSequenceClassification", one_number)


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


def cut(model: nn.Module, k: int, config: TextConfig, info: DataInfo) -> Cut | None:
    """The model cut before block ``k``."""
    return cut_between_layers(model, blocks(model), k, model_inputs, forward)


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
