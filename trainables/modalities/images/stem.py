"""The stem of an image model: as published, or made to keep the resolution of small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

from trainables.errors import InputError
from trainables.modalities.images.blocks import blocks
from trainables.modalities.images.weight_files import State

if TYPE_CHECKING:
    from trainables.modalities.images.config import ImageConfig

# Up to this size in pixels, stem=auto means small. A standard stem and four stages divide the
# resolution by 32; at 48 pixels that leaves the last stage less than 2x2 positions. 64 and more is
# commonly trained with the standard stem. Assumed, not measured.
SMALL_STEM_UP_TO = 48


def wants_small_stem(model: nn.Module, config: ImageConfig) -> bool:
    """Whether the stem is to keep the resolution of the images.

    Raises:
        InputError: it should, but this model's can not.
    """
    stride, size = _first_convolution(model)[1].stride, _first_convolution(model)[1].kernel_size
    strided = max(stride) > 1 and stride != size
    if config.stem == "small" and not strided:
        why = (
            "cuts the image into patches, so it has no stem that could keep the resolution"
            if max(stride) > 1
            else "keeps the resolution in its stem as it is"
        )
        raise InputError(f"stem = 'small': {config.model} {why}; valid for it: 'auto', 'standard'")
    return strided and (
        config.stem == "small" or (config.stem == "auto" and config.image_size <= SMALL_STEM_UP_TO)
    )


def make_stem_small(model: nn.Module, config: ImageConfig) -> None:
    """Keep the image's resolution: the first convolution strides no more, nor does the stem pool.

    Without weights to fit, the convolution becomes 3x3, as for CIFAR in He et al. 2016
    (arXiv:1512.03385, section 4.2); with weights it keeps its published size.
    """
    path, conv = _first_convolution(model)
    if config.weights == "none":
        unstrided = nn.Conv2d(
            conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None
        )
        # Drawn as torchvision's ResNet does; the other families' own rules differ little for a
        # first layer.
        nn.init.kaiming_normal_(unstrided.weight, mode="fan_out", nonlinearity="relu")
        if unstrided.bias is not None:
            nn.init.zeros_(unstrided.bias)
        model.set_submodule(path, unstrided)
    else:
        conv.stride, conv.padding = (1, 1), tuple(size // 2 for size in conv.kernel_size)
    stem = blocks(model)[0]
    pools = (p for p, m in model.named_modules() if stem.holds(p) and isinstance(m, nn.MaxPool2d))
    for path in list(pools)[:1]:
        model.set_submodule(path, nn.Identity())


def widen_stem(model: nn.Module, state: State) -> None:
    """Let weights of a 3x3 stem fill a wider one: with zeros around them they compute the same."""
    path, conv = _first_convolution(model)
    weight = state.get(f"{path}.weight")
    if weight is None or weight.shape[:2] != conv.weight.shape[:2] or weight.dim() != 4:
        return
    margin = (conv.kernel_size[0] - weight.shape[-1]) // 2
    if margin > 0:
        state[f"{path}.weight"] = F.pad(weight, (margin,) * 4)


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    return found[0] if found else ("", nn.Conv2d(1, 1, 1))  # of patches by a linear layer
