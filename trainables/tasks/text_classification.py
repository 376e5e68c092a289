"""Text classification: any transformers encoder with a classification head, on token ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainables.blocks import Block
from trainables.errors import InputError
from trainables.modalities.texts import pretrained
from trainables.modalities.texts.cut import cut as cut_between_layers
from trainables.modalities.texts.text_data import encode, prepare, scratch_model
from trainables.targets.classes import loss, meter
from trainables.task import Cut, Task

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PretrainedConfig

    from trainables.config import TextClassificationConfig
    from trainables.prepared import DataInfo

# Beside the layers, but run after the last of them: the final norm of ESM and of Megatron-BERT.
_AFTER_LAYERS = {"emb_layer_norm_after", "ln"}


def build(
    config: TextClassificationConfig, info: DataInfo, assets: Path, load_weights: bool = True
) -> nn.Module:
    """An encoder with a head for ``info.classes``; untrained parts are drawn from torch's seed.

    Args:
        load_weights: False leaves pretrained weights out, for a checkpoint's to take their place;
            only ``assets`` is needed then.

    Raises:
        InputError: the weights can not be reached or read, or are not those of a text encoder.
    """
    scratch = scratch_model(config.model)
    labels = dict(enumerate(info.classes))
    indices = {label: i for i, label in labels.items()}
    head: dict[str, Any] = {"id2label": labels, "label2id": indices}
    from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

    model: nn.Module
    with pretrained.quiet():
        if scratch is not None:
            about: PretrainedConfig = BertConfig(
                vocab_size=info.details["vocabulary_size"],
                num_hidden_layers=scratch.n_layers,
                hidden_size=scratch.width,
                num_attention_heads=scratch.n_heads,
                intermediate_size=4 * scratch.width,
                max_position_embeddings=config.max_tokens,
                pad_token_id=info.details["pad_id"],
                **head,
            )
            model = AutoModelForSequenceClassification.from_config(about)
        elif load_weights:
            model = _load(pretrained.fetch(config.model), config.model, head)
        else:
            about = AutoConfig.from_pretrained(
                assets / "model", local_files_only=True, trust_remote_code=False, **head
            )
            model = AutoModelForSequenceClassification.from_config(about, dtype=torch.float32)
    if config.dropout is not None:
        _set_head_dropout(model, config)
    return model


def _load(folder: Path, name: str, head: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    model: nn.Module
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,  # "auto" would train in whatever precision the file was saved in
            ignore_mismatched_sizes=True,  # a head for other classes; all else is refused below
            output_loading_info=True,
            **head,
        )
    except Exception as error:  # damaged files raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"model = {name!r}: can not be loaded: {reason}") from error
    head_block = blocks(model)[-1]
    trained_anew = {parameter for parameter, _ in head_block.parameters(model)}
    absent = {key for key in found["missing_keys"] if key in dict(model.named_parameters())}
    misfits = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    wrong = sorted((absent | misfits) - trained_anew)
    if wrong:
        # transformers only warns, and would go on with an encoder of random numbers.
        raise InputError(
            f"model = {name!r}: its weights do not fit its config.json: {len(wrong)} parameters"
            f" of the encoder are missing or of another shape, such as {wrong[0]}"
        )
    _move_out_of_file(model)
    return model


def _move_out_of_file(model: nn.Module) -> None:
    """Give each tensor memory of its own, instead of a place in the file's memory map.

    There it lies at any address, for which processors round otherwise than for the aligned ones
    that a checkpoint's weights get: continuing a training would not equal not having stopped.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _set_head_dropout(model: nn.Module, config: TextClassificationConfig) -> None:
    head = blocks(model)[-1]
    found = [m for top in head.modules(model) for m in top.modules() if isinstance(m, nn.Dropout)]
    if not found:
        raise InputError(
            f"dropout = {config.dropout}: the head of model {config.model!r} has no dropout; valid:"
            " none"
        )
    for module in found:
        module.p = float(config.dropout or 0.0)


def blocks(model: nn.Module) -> tuple[Block, ...]:
    """``embeddings``, ``layer.0`` …, ``head``.

    The layers are the encoder's largest list of modules (for ALBERT its groups, each with weights
    of its own). What lies outside the encoder, and what follows the layers in it (a pooler, a final
    norm), belongs to the head. All else feeds the layers, so it belongs to the embeddings: relative
    position tables too, which must not move while a layer that uses them is frozen.
    """
    way = _way_to_layers(model)
    embeddings: list[str] = []
    head: list[str] = []
    container, prefix = model, ""
    for depth, step in enumerate(way):
        before = True
        own = [name for name, _ in container.named_parameters(recurse=False)]
        for name, child in [*((name, None) for name in own), *container.named_children()]:
            if name == step:
                before = False
                continue
            follows = depth == 1 and not before and _has_parameters(child)
            belongs_to_head = depth == 0 or follows or name in _AFTER_LAYERS
            if belongs_to_head:
                head.insert(0, f"{prefix}{name}")  # what lies deeper runs first
            else:
                embeddings.append(f"{prefix}{name}")
        container, prefix = container.get_submodule(step), f"{prefix}{step}."
    layers = [
        Block(f"layer.{i}", (f"{prefix}{i}",)) for i in range(len(list(container.children())))
    ]
    return (Block("embeddings", tuple(embeddings)), *layers, Block("head", tuple(head)))


def _way_to_layers(model: nn.Module) -> list[str]:
    base = str(model.base_model_prefix)
    lists: list[tuple[int, str]] = [
        (sum(p.numel() for p in module.parameters()), path)
        for path, module in model.get_submodule(base).named_modules(prefix=base)
        if isinstance(module, nn.ModuleList)
    ]
    if not lists:
        raise InputError(f"model: {type(model).__name__} has no list of layers to divide it by")
    # The first of equals: a list of lists comes before what it holds.
    return max(lists, key=lambda found: found[0])[1].split(".")


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and next(module.parameters(), None) is not None


def transform(
    raw: dict[str, Tensor],
    config: TextClassificationConfig,
    info: DataInfo,
    generator: Generator | None,
) -> dict[str, Tensor]:
    """Token ids trimmed to the longest text of the batch; texts are not augmented.

    Args:
        raw: ``input_ids`` [n, longest of the split] and ``length`` [n], int32.

    Returns:
        ``input_ids`` int64 and ``attention_mask`` int64, both [n, longest of the batch].
    """
    return _model_inputs(raw, None)


def _model_inputs(raw: dict[str, Tensor], n_positions: int | None) -> dict[str, Tensor]:
    length = raw["length"].long()
    if n_positions is None:
        n_positions = int(length.max()) if len(length) else 0
    input_ids = raw["input_ids"][:, :n_positions].long()
    positions = torch.arange(input_ids.shape[1], device=length.device)
    return {"input_ids": input_ids, "attention_mask": (positions < length[:, None]).long()}


def forward(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits [n, classes]."""
    logits: Tensor = model(**inputs).logits
    return logits


def n_views(config: TextClassificationConfig) -> int:
    """One: texts are not augmented."""
    return 1


def cut(model: nn.Module, k: int, config: TextClassificationConfig, info: DataInfo) -> Cut | None:
    """The model cut before block ``k``."""
    return cut_between_layers(model, blocks(model), k, _model_inputs, forward)


TASK = Task(
    name="text_classification",
    prepare=prepare,
    build=build,
    blocks=blocks,
    transform=transform,
    forward=forward,
    loss=loss,
    meter=meter,
    encode=encode,
    n_views=n_views,
    cut=cut,
)
