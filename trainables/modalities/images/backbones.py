"""torchvision's classification models by name, fitted to image size, classes and weights."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainables.errors import InputError
from trainables.modalities.images.blocks import blocks, last_layer
from trainables.modalities.images.config import ImageConfig
from trainables.modalities.images.model_names import (
    check_image_size,
    family_of,
    no_small_stem,
    wants_small_stem,
)
from trainables.modalities.images.weight_files import State, fill, read_weights, weights_path
from trainables.prepared import DataInfo

# Constructor arguments of some models, by the class they make.
# The two Inceptions would return a tuple in training mode with their auxiliary classifiers.
_ARGUMENTS: dict[str, Callable[[ImageConfig], dict[str, Any]]] = {
    "googlenet": lambda config: _inception(config),
    "inception_v3": lambda config: _inception(config),
    "vit_": lambda config: {"image_size": config.image_size},
    "maxvit_": lambda config: {"input_size": (config.image_size, config.image_size)},
}


def _inception(config: ImageConfig) -> dict[str, Any]:
    # Their pretrained weights expect pixels of another scale than the other models' do;
    # transform_input converts.
    pretrained = config.weights != "none"
    return {"aux_logits": False, "init_weights": not pretrained, "transform_input": pretrained}


def build(
    config: ImageConfig,
    info: DataInfo,
    assets: Path,
    load_weights: bool = True,
    *,
    n_outputs: Callable[[DataInfo], int],
) -> nn.Module:
    """The model ``config`` describes: float [n, 3, image_size, image_size] to [n, outputs].

    Args:
        n_outputs: of the head, as the target has it.
        load_weights: fill it with the weights that ``config`` names. Without, it is the same model
            with other values, and needs no file.

    Raises:
        InputError: the model can not take images of this size or a small stem, or the weights do
            not fit it.
    """
    check_image_size(config)
    small = wants_small_stem(config)
    path = weights_path(config) if load_weights else None
    state = None if path is None else read_weights(path)
    model = construct(config, n_outputs(info))
    if small:
        _make_stem_small(model, config)
    if state is not None:
        _fill(model, state, config)
    if config.dropout is not None:
        _set_dropout(model, config.dropout)
    if family_of(config.model) is None:  # else check_image_size knows
        _try_forward(model, config)
    return model


def check_weights(config: ImageConfig) -> None:
    """Raise InputError unless the configured weights can be read and fill the model."""
    _check_weights(config.model, config.weights, config.image_size, config.stem)


@functools.cache  # the many configurations of a search space rarely differ in these
def _check_weights(
    model: str, weights: str, image_size: int, stem: Literal["auto", "small", "standard"]
) -> None:
    config = ImageConfig(data="", model=model, weights=weights, image_size=image_size, stem=stem)
    path = weights_path(config)
    assert path is not None
    state = read_weights(path)
    bare = construct_without_values(config)
    if wants_small_stem(config):
        _make_stem_small(bare, config)
    with warnings.catch_warnings():  # that a model without values stays without them
        warnings.simplefilter("ignore")
        _fill(bare, state, config)


def _fill(model: nn.Module, state: State, config: ImageConfig) -> None:
    if wants_small_stem(config):
        _widen_stem(model, state)
    head, _ = last_layer(model)
    fill(model, state, head, f"weights = {config.weights!r}: not those of a {config.model}")


def construct(config: ImageConfig, n_classes: int) -> nn.Module:
    """A freshly initialised model of torchvision's, its stem as published."""
    arguments: dict[str, Any] = {"num_classes": n_classes}
    for prefix, function in _ARGUMENTS.items():
        if config.model.startswith(prefix):
            arguments |= function(config)
    model: nn.Module = torchvision.models.get_model(config.model, weights=None, **arguments)
    if isinstance(model, torchvision.models.MNASNet):
        # It refuses weights without a version number, and safetensors files have none; only its
        # first version, of 2019, would need the special treatment that this skips.
        model._load_from_state_dict = functools.partial(nn.Module._load_from_state_dict, model)
    return model


def _make_stem_small(model: nn.Module, config: ImageConfig) -> None:
    """Keep the image's resolution: the first convolution strides no more, nor does the stem pool.

    Without weights to fit, the convolution becomes 3x3, as for CIFAR in He et al. 2016
    (arXiv:1512.03385, section 4.2); with weights it keeps its published size.
    """
    path, conv = _first_convolution(model)
    if max(conv.stride) == 1 or conv.stride == conv.kernel_size:
        raise InputError(
            no_small_stem(config.model, f"begins with a convolution of stride {conv.stride[0]}")
        )
    kernel = 3 if config.weights == "none" else conv.kernel_size[0]
    bias = conv.bias is not None
    unstrided = nn.Conv2d(
        conv.in_channels, conv.out_channels, kernel, padding=kernel // 2, bias=bias
    )
    # Drawn as torchvision's ResNet does; the other families' own rules differ little for a first
    # layer.
    nn.init.kaiming_normal_(unstrided.weight, mode="fan_out", nonlinearity="relu")
    if unstrided.bias is not None:
        nn.init.zeros_(unstrided.bias)
    model.set_submodule(path, unstrided)
    for inner in blocks(model)[0].paths:
        if isinstance(model.get_submodule(inner), nn.MaxPool2d):
            model.set_submodule(inner, nn.Identity())
            break


def _widen_stem(model: nn.Module, state: State) -> None:
    """Let weights of a 3x3 stem fill a wider one: with zeros around them they compute the same."""
    path, conv = _first_convolution(model)
    weight = state.get(f"{path}.weight")
    if weight is None or weight.shape[:2] != conv.weight.shape[:2] or weight.dim() != 4:
        return
    margin = (conv.kernel_size[0] - weight.shape[-1]) // 2
    if margin > 0:
        state[f"{path}.weight"] = F.pad(weight, (margin,) * 4)


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    return next((path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d))


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
    if not dropouts:
        path, layer = last_layer(model)
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


def _try_forward(model: nn.Module, config: ImageConfig) -> None:
    """Raise InputError unless an image gets through; computes shapes only."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    image = torch.empty(1, 3, config.image_size, config.image_size, device="meta")
    was_training = model.training
    try:
        with torch.no_grad():
            functional_call(model.eval(), shapes, image)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"image_size = {config.image_size}: {config.model} can not take images of this size: "
            f"{str(error).splitlines()[0]}"
        ) from None
    finally:
        model.train(was_training)


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


def construct_without_values(config: ImageConfig, n_classes: int = 2) -> nn.Module:
    """Like ``construct``, in a fraction of the time and memory, on the meta device."""
    with _MetaParameters():
        return construct(config, n_classes).to("meta")


def block_names(config: ImageConfig) -> tuple[str, ...]:
    """The names of the blocks the configured model has."""
    return tuple(block.name for block in blocks(construct_without_values(config)))
