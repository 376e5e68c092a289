"""Text models of transformers by name, with the head that a task wants, as blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainables.blocks import Block
from trainables.errors import InputError, first_line
from trainables.modalities.texts import pretrained
from trainables.modalities.texts.scratch import scratch_model

if TYPE_CHECKING:
    from trainables.modalities.texts.config import TextConfig
    from trainables.prepared import DataInfo

# Beside the layers, but run after the last of them: the final norm of ESM and of Megatron-BERT.
_AFTER_LAYERS = {"emb_layer_norm_after", "ln"}

# Its pretrained head is trained further; those of other classes are new for each data set.
NEXT_TOKEN = "AutoModelForCausalLM"


def build(
    config: TextConfig, info: DataInfo, assets: Path, load_weights: bool = True, *, auto_class: str
) -> nn.Module:
    """A model of ``auto_class``; untrained parts are drawn from torch's seed.

    Args:
        load_weights: False leaves pretrained weights out, for a checkpoint's to take their place;
            only ``assets`` is needed then.
        auto_class: of transformers; it says which head the model ends in.

    Raises:
        InputError: the weights can not be reached or read, or are not those of such a model.
    """
    import transformers

    scratch, settings = scratch_model(config.model), _outputs(info, auto_class)
    model_class = getattr(transformers, auto_class)
    model: nn.Module
    with pretrained.quiet():
        if scratch is not None:
            names = ("pad_token_id", "bos_token_id", "eos_token_id")
            settings |= dict.fromkeys(names, info.details["pad_id"])
            n_tokens = info.details["vocabulary_size"]
            about = scratch.configuration(n_tokens, config.max_tokens, **settings)
            model = model_class.from_config(about)
        elif load_weights:
            model = _load(pretrained.fetch(config.model), config.model, model_class, settings)
        else:
            about = transformers.AutoConfig.from_pretrained(
                assets / "model", local_files_only=True, trust_remote_code=False, **settings
            )
            model = model_class.from_config(about, dtype=torch.float32)
    if config.dropout is not None:
        _set_head_dropout(model, config)
    final: Any = model.config
    if final.pad_token_id is None:  # of a model of language; a classifier looks for it
        final.pad_token_id = info.details["pad_id"]
    final.use_cache = False  # keys and values of earlier tokens, for which training has no use
    return model


def _outputs(info: DataInfo, auto_class: str) -> dict[str, Any]:
    """What a model's configuration must say of its outputs: the classes by name, or one number."""
    if auto_class == NEXT_TOKEN:
        return {}
    labels = dict(enumerate(info.classes))
    named = {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    return named if labels else {"num_labels": 1}


def _load(folder: Path, name: str, model_class: Any, settings: Mapping[str, Any]) -> nn.Module:
    model: nn.Module
    try:
        model, found = model_class.from_pretrained(
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
        raise InputError(f"model = {name!r}: can not be loaded: {first_line(error)}") from error
    is_new = model_class.__name__ != NEXT_TOKEN
    own = blocks(model)[-1].parameters(model) if is_new else ()
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
