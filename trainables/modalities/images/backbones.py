"""Image classification models of torchvision and timm, by name, as configured."""

from __future__ import annotations

import functools
import warnings
from bisect import bisect_left
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainables.errors import InputError, first_line
from trainables.modalities.images.blocks import blocks, head_layers
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.model_names import TIMM, block_names
from trainables.modalities.images.stem import make_stem_small, wants_small_stem, widen_stem
from trainables.modalities.images.weight_files import State, fetch_default, fill, read_weights
from trainables.prepared import DataInfo

_SIZES = range(32, 1025, 32)  # of images, to be tried in place of one that a model can not take


def build(
    config: ImageConfig, info: DataInfo, assets: Path, load_weights: bool = True
) -> nn.Module:
    """The model ``config`` describes: float [n, 3, image_size, image_size] to [n, outputs].

    Args:
        load_weights: fill it with the weights that ``config`` names. Without, it is the same model
            with other values, and needs no file.

    Raises:
        InputError: the model can not take images of this size or a small stem, or the weights do
            not fit it.
    """
    if load_weights:
        block_names(config)  # raises what is wrong, in words
    state = _weights(config) if load_weights else None
    model = construct(config, info.n_outputs)
    small = wants_small_stem(model, config)
    if small:
        make_stem_small(model, config)
    if state is not None:
        _fill(model, state, config, small)
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    return model


def check_weights(config: ImageConfig) -> None:
    """Raise InputError unless the configured weights can be had, and fill the model."""
    _check_weights(config.model, config.weights, config.image_size, config.stem)


@functools.cache  # the many configurations of a search space rarely differ in these
def _check_weights(model: str, weights: str, image_size: int, stem: Any) -> None:
    config = ImageConfig(data="", model=model, weights=weights, image_size=image_size, stem=stem)
    state = _weights(config)
    assert state is not None
    bare, small = _without_values(config)
    with warnings.catch_warnings():  # that a model without values stays without them
        warnings.simplefilter("ignore")
        _fill(bare, state, config, small)


def _weights(config: ImageConfig) -> State | None:
    """The configured weights, fetched first if need be; None for weights=none."""
    if config.weights == "none":
        return None
    if config.weights != "default":
        return read_weights(Path(config.weights).expanduser())
    if not config.model.startswith(TIMM):
        return read_weights(fetch_default(config.model))
    try:
        return _construct_by_timm(config, pretrained=True).state_dict()
    except Exception as error:  # the hub's client passes on whatever its transport raises
        raise InputError(
            f"weights = 'default': timm's weights of {config.model} are not in the cache of the "
            f"Hugging Face hub and could not be fetched: {first_line(error)}. Give a file with "
            "--set weights=PATH"
        ) from None


def _fill(model: nn.Module, state: State, config: ImageConfig, small: bool) -> None:
    if small:
        widen_stem(model, state)
    heads = [path for path, _ in head_layers(model)]
    fill(model, state, heads, f"weights = {config.weights!r}: not those of a {config.model}")


def construct(config: ImageConfig, n_outputs: int) -> nn.Module:
    """A freshly initialised model, its stem as published."""
    model: nn.Module
    if config.model.startswith(TIMM):
        return _construct_by_timm(config, num_classes=n_outputs)
    name, arguments = config.model, dict[str, Any]()
    if name in ("googlenet", "inception_v3"):
        # With auxiliary heads they would return a tuple in training. Their pretrained weights
        # expect pixels of another scale than the other models' do; transform_input converts.
        pretrained = config.weights != "none"
        arguments = {
            "aux_logits": False,
            "init_weights": not pretrained,
            "transform_input": pretrained,
        }
    elif name.startswith("vit_"):
        arguments = {"image_size": config.image_size}
    elif name.startswith("maxvit_"):
        arguments = {"input_size": (config.image_size, config.image_size)}
    model = torchvision.models.get_model(name, weights=None, num_classes=n_outputs, **arguments)
    if isinstance(model, torchvision.models.MNASNet):
        # It refuses weights without a version number, and safetensors files have none; only its
        # first version, of 2019, would need the special treatment that this skips.
        model._load_from_state_dict = functools.partial(nn.Module._load_from_state_dict, model)
    return model


def _construct_by_timm(config: ImageConfig, **arguments: Any) -> nn.Module:
    import timm

    name = config.model.removeprefix(TIMM)
    about = timm.models.get_pretrained_cfg(name)
    if about is not None and about.fixed_input_size:
        arguments["img_size"] = config.image_size
    model: nn.Module = timm.create_model(name, **arguments)
    return model


def _set_dropout(model: nn.Module, p: float) -> None:
    """Set the head's dropout; where it has none, put one on the input of its last layer."""
    dropouts = [
        module
        for block in blocks(model)
        if block.name in ("classifier", "head")
        for module in block.modules(model)
        if isinstance(module, nn.Dropout)
    ]
    for dropout in dropouts:
        dropout.p = p
    for path, layer in [] if dropouts else head_layers(model):
        if not isinstance(layer, nn.Linear):
            raise InputError(f"dropout = {p}: this model has no layer for it; valid: none")
        model.set_submodule(path, LinearWithDropout(layer, p))


class LinearWithDropout(nn.Linear):
    """A linear layer with dropout on its input.

    Its parameters are named as a plain one's are, so that weights move between models with and
    without dropout.
    """

    def __init__(self, layer: nn.Linear, p: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.dropout = nn.Dropout(p)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.dropout(input))


class _MetaParameters(TorchFunctionMode):
    """Makes modules whose parameters have a shape but no values.

    Unlike ``torch.device("meta")`` it leaves alone the small tensors that RegNet computes its
    widths with.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _without_values(config: ImageConfig) -> tuple[nn.Module, bool]:
    """The model with two outputs on the meta device, and whether its stem is small.

    It takes a fraction of the time and memory that the model takes.
    """
    with _MetaParameters():
        model = construct(config, 2).to("meta")
        small = wants_small_stem(model, config)
        if small:
            make_stem_small(model, config)
    return model.to("meta"), small


def examine(model: str, image_size: int, stem: Any, untrained: bool) -> list[str] | str:
    """The names of a model's blocks; or what is wrong with its image size or stem."""
    config = ImageConfig(
        data="",
        model=model,
        image_size=image_size,
        stem=stem,
        weights="none" if untrained else "default",
    )
    try:
        return _tried(config)
    except InputError as error:
        return str(error)
    except Exception as error:  # whatever a model raises for a size that it can not take
        reason = first_line(error)
    valid = []
    if size := _smallest(config):
        valid.append(f"image_size={size}")
    if config.stem != "small" and _takes(config, image_size, "small"):
        valid.append("stem=small")
    if not valid:
        return f"model = {model!r}: can not be made: {reason}"
    return (
        f"image_size = {image_size}: {model} can not take images of this size: {reason}; "
        f"valid: {', or '.join(valid)}"
    )


def _tried(config: ImageConfig) -> list[str]:
    """The names of the blocks of a model that an image went through; computes shapes only."""
    model, _ = _without_values(config)
    image = torch.empty(1, 3, config.image_size, config.image_size, device="meta")
    with torch.no_grad():
        model.eval()(image)
    return [block.name for block in blocks(model)]


def _takes(config: ImageConfig, image_size: int, stem: str) -> bool:
    try:
        _tried(config.model_copy(update={"image_size": image_size, "stem": stem}))
    except Exception:
        return False
    return True


def _smallest(config: ImageConfig) -> int | None:
    """A size above the configured one that the model takes; None if it takes none of ``_SIZES``."""

    def taken(size: int) -> bool:
        return _takes(config, size, config.stem)

    enough = next((size for size in _SIZES if size > config.image_size and taken(size)), None)
    if enough is None:
        return None
    return config.image_size + bisect_left(range(config.image_size, enough), True, 1, key=taken)
