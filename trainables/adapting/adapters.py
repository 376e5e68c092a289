"""Low-rank adapters (LoRA, arXiv:2106.09685) by peft, in the blocks below the head.

The base model stays as it is. A checkpoint holds what trains alone, and a digest of all the rest,
which is built again from the configuration. Imports peft, which takes seconds, only when it is
used.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import Tensor, nn

from trainables.adapting.freezing import parts, trainable, weights_digest
from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.errors import InputError, some
from trainables.strategies import strategy_of
from trainables.torch_settings import seeded

_RANK = 8  # peft's own default
_SCALE = 2.0  # alpha = 2 * rank, as is usual
_SEED = 4  # of the adapters' initial values, beside the seed that the base is drawn from
# Modules that read the weights of their layers, and never call them: adapters there do nothing.
_READS_WEIGHTS = {"MultiheadAttention", "ShiftedWindowAttention"}


def add_adapters(model: nn.Module, blocks: Sequence[Block], config: TrainingConfig) -> str | None:
    """Put adapters into ``model``, which keeps its modules' paths, if ``config`` wants them.

    Returns:
        The digest of all that does not train; None where there are no adapters.

    Raises:
        InputError: no layer of the model can take one.
    """
    if not strategy_of(config).has_adapters:
        return None
    import peft

    targets = list(_targets(model, blocks[(config.lora_from_block or 0) : -1]))
    if not targets:
        raise InputError(
            f"freezing = {config.freezing!r}: {config.model} has no linear layer or convolution "
            "that an adapter fits, outside of its head; choose another strategy"
        )
    rank = config.lora_rank or _RANK
    lora = peft.LoraConfig(
        r=rank,
        lora_alpha=(config.lora_scale or _SCALE) * rank,
        # An expression, since peft takes a name for the end of others too: conv1, layer1.0.conv1.
        target_modules="|".join(map(re.escape, targets)),
    )
    with seeded(config.seed, _SEED), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # that it looks for itself, and how
        peft.inject_adapter_in_model(lora, model)
    return base_digest(model, blocks, config)


def _targets(model: nn.Module, blocks: Sequence[Block]) -> Iterator[str]:
    """Paths of the layers that take an adapter: dense ones, and convolutions over all channels.

    Grouped convolutions have few weights, and peft wants a rank that their groups divide.
    """
    modules = dict(model.named_modules())
    for path, module in modules.items():
        parent = modules[path.rpartition(".")[0]]
        if not any(block.holds(path) for block in blocks) or _READS_WEIGHTS & _kinds(parent):
            continue
        is_convolution = isinstance(module, nn.Conv2d) and module.groups == 1
        # transformers' own layer of GPT-2 is a linear one with its weights transposed
        if is_convolution or isinstance(module, nn.Linear) or "Conv1D" in _kinds(module):
            yield path


def _kinds(module: nn.Module) -> set[str]:
    return {each.__name__ for each in type(module).__mro__}


def saved_names(
    model: nn.Module, blocks: Sequence[Block], config: TrainingConfig
) -> frozenset[str]:
    """What a checkpoint with adapters holds: all that ever trains, and the buffers of the head."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = (name for name in model.state_dict().keys() - parameters if blocks[-1].holds(name))
    return trainable(config, parts(model, blocks)) | frozenset(buffers)


def base_digest(model: nn.Module, blocks: Sequence[Block], config: TrainingConfig) -> str:
    """The digest of what a checkpoint with adapters leaves out."""
    names = saved_names(model, blocks, config)
    return weights_digest(each for each in model.state_dict().items() if each[0] not in names)


def only(names: Collection[str], weights: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors ``names`` of a module, or of its weights by name."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    return {name: tensor.contiguous() for name, tensor in state.items() if name in names}


def check_gradients(model: nn.Module) -> None:
    """Check after a backward pass that each adapter that trains has got a gradient.

    Raises:
        InputError: one has none; the message says which.
    """
    idle = {
        name.partition(".lora_")[0]
        for name, parameter in model.named_parameters()
        if ".lora_" in name and parameter.requires_grad and parameter.grad is None
    }
    if idle:
        raise InputError(
            f"freezing = 'lora': the adapters of {some(sorted(idle), 3)} get no "
            f"gradient, so they would never train: {type(model).__name__} does not call those "
            "layers in its forward pass; choose another strategy, or a lora_from_block above them"
        )


def merge_adapters(model: nn.Module) -> None:
    """Add what the adapters of ``model`` have learned to its weights, and take them out."""
    from peft.tuners.lora import LoraLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            model.set_submodule(path, module.get_base_layer())
