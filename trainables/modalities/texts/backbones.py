"""Text models of transformers by name, with the head that a task wants, as blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainables.blocks import Block
from trainables.errors import InputError
from trainables.modalities.texts import pretrained
from trainables.modalities.texts.scratch import scratch_model

if TYPE_CHECKING:
    from trainables.modalities.texts.config import TextConfig
    from trainables.prepared import DataInfo

# Beside the layers, but run after the last of them: the final norm of ESM and of Megatron-BERT.
_AFTER_LAYERS = {"emb_layer_norm_after", "ln"}


@dataclass(frozen=True)
class Head:
    """What a text model ends in: a class of transformers, and what its configuration must say."""

    auto_class: str
    settings: Callable[[DataInfo], dict[str, Any]]
    is_new: bool = True  # for each data set; False: the pretrained one is trained further


def _auto_class(head: Head) -> Any:
    import transformers

    return getattr(transformers, head.auto_class)


def build(
    config: TextConfig, info: DataInfo, assets: Path, load_weights: bool = True, *, head: Head
) -> nn.Module:
    """A model that ends in ``head``; untrained parts are drawn from torch's seed.

    Args:
        load_weights: False leaves pretrained weights out, for a checkpoint's to take their place;
            only ``assets`` is needed then.

    Raises:
        InputError: the weights can not be reached or read, or are not those of such a model.
    """
    scratch, settings = scratch_model(config.model), head.settings(info)
    from transformers import AutoConfig

    model: nn.Module
    with pretrained.quiet():
        if scratch is not None:
            settings = {"pad_token_id": info.details["pad_id"], **settings}
            n_tokens = info.details["vocabulary_size"]
            about = scratch.configure(scratch, n_tokens, config.max_tokens, settings)
            model = _auto_class(head).from_config(about)
        elif load_weights:
            model = _load(pretrained.fetch(config.model), config.model, head, settings)
        else:
            about = AutoConfig.from_pretrained(
                assets / "model", local_files_only=True, trust_remote_code=False, **settings
            )
            model = _auto_class(head).from_config(about, dtype=torch.float32)
    if config.dropout is not None:
        _set_head_dropout(model, config)
    final: Any = model.config
    if final.pad_token_id is None:  # of a model of language; a classifier looks for it
        final.pad_token_id = info.details["pad_id"]
    final.use_cache = False  # keys and values of earlier tokens, for which training has no use
    return model


def _load(folder: Path, name: str, head: Head, settings: Mapping[str, Any]) -> nn.Module:
    model: nn.Module
    try:
        model, found = _auto_class(head).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,  # "auto" would train in whatever precision the file was saved in
            ignore_mismatched_sizes=True,  # a head for other classes; all else is refused below
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # damaged files raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"model = {name!r}: can not be loaded: {reason}") from error
    own = blocks(model)[-1].parameters(model) if head.is_new else ()
    trained_anew = {parameter for parameter, _ in own}
    absent = {key for key in found["missing_keys"] if key in dict(model.named_parameters())}
    misfits = {key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]}
    wrong = sorted((absent | misfits) - trained_anew)
    if wrong:
        # transformers only warns, and would go on with an encoder of random numbers.
        raise InputError(
            f"model = {name!r}: its weights do not fit its config.json: {len(wrong)} parameters"
            f" of the pretrained part are missing or of another shape, such as {wrong[0]}"
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


def _set_head_dropout(model: nn.Module, config: TextConfig) -> None:
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
