"""The contracts between a task, the training loop, and whoever hosts a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trainables.blocks import Block
from trainables.metrics import Meter
from trainables.prepared import DataInfo, PreparedData

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn


# How several workers train one model: each with the whole of it (DistributedDataParallel), or with
# its share (FSDP2, torch.distributed.fsdp.fully_shard).
Strategy = Literal["ddp", "fsdp"]
STRATEGY_NAMES: tuple[Strategy, ...] = ("ddp", "fsdp")


@dataclass(frozen=True)
class TrainingRun:
    """Where and as what a training runs; everything about it that is not its configuration."""

    cache_folder: Path
    device: str = "cpu"  # as torch.device takes it
    rank: int = 0
    world_size: int = 1
    strategy: Strategy = "ddp"  # where world_size is more than 1
    n_threads: int = 1  # CPU threads torch may use
    # What cached activations of frozen blocks may take on this machine; 0: none are kept; None: a
    # share of its free memory and disk.
    prefix_cache_bytes: int | None = None
    # What the data must be, as ``DataInfo.fingerprint`` has it; None: whatever is found.
    data_fingerprint: str | None = None
    resume_from: Path | None = None  # a checkpoint folder


@dataclass(frozen=True)
class EpochReport:
    """What a training function yields after each epoch.

    ``save(folder)`` writes a checkpoint; it is valid until the next report is asked for. Of several
    workers the first one's is kept. With strategy "ddp" it is called there only, with "fsdp" in all
    of them, since none has the whole model.
    """

    epoch: int  # counted from 1
    metrics: Mapping[str, float]
    save: Callable[[Path], None]
    tags: Mapping[str, str] = field(default_factory=dict)  # said of the trial as a whole so far


class TrainingFunction(Protocol):
    """An ordinary PyTorch training that yields after each epoch. It knows nothing of its host."""

    def __call__(self, config: Any, run: TrainingRun) -> Iterator[EpochReport]: ...


@dataclass(frozen=True)
class Cut:
    """A model divided in two before its block k: ``suffix`` of ``prefix`` is the whole model.

    Only while the first k blocks are frozen: ``prefix`` is computed without gradients.
    """

    # All that decides what ``prefix`` gives, but the data, the weights and the precision.
    identity: str
    # (inputs of a split) -> a number for each sample [n]; samples of one number give activations of
    # one shape, whose first axis counts samples. Others may differ in the second axis.
    groups: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    # (raw inputs of samples of one group, that group, a generator per sample if they are to be
    # augmented) -> activations
    prefix: Callable[[dict[str, Tensor], int, Sequence[Generator] | None], Tensor]
    # (activations, zero beyond a sample's own, and the raw inputs if they are needed) -> logits
    suffix: Callable[[Tensor, dict[str, Tensor] | None], Tensor]
    suffix_needs_inputs: bool


@dataclass(frozen=True)
class Task:
    """What is trained, as a value: ``fit`` turns it into a training function.

    Batches are dictionaries of tensors whose first axis counts samples.
    """

    name: str
    # (config, cache folder) -> splits. Raises InputError. Imports torch only if the data needs it.
    prepare: Callable[[Any, Path], PreparedData]
    # (config, info, assets, load weights) -> a model with a head for info.classes. Without loading,
    # the same architecture from what is at hand: a checkpoint's weights will fill it.
    build: Callable[[Any, DataInfo, Path, bool], nn.Module]
    # (model) -> its blocks, from input to head; together they hold every parameter exactly once
    blocks: Callable[[nn.Module], tuple[Block, ...]]
    # (raw inputs of a split, config, info, generator or None) -> model inputs, augmented if there
    # is a generator
    transform: Callable[[dict[str, Tensor], Any, DataInfo, Generator | None], dict[str, Tensor]]
    # (model, model inputs) -> logits [n, ...]
    forward: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    # (logits, targets, config, "sum" over the samples) -> scalar
    loss: Callable[[Tensor, Tensor, Any], Tensor]
    meter: Callable[[DataInfo], Meter]
    # (file contents or texts, config, info, assets) -> raw inputs as a split holds them. Raises
    # InputError.
    encode: Callable[[Sequence[bytes | str], Any, DataInfo, Path], dict[str, np.ndarray]]
    # (config) -> how many versions of a sample ``transform`` makes: 1 where it does not augment, 0
    # where each epoch gets new ones.
    n_views: Callable[[Any], int]
    # (model, k, config, info) -> the model cut before block k; None where it can not be, or where
    # nothing worth keeping comes before.
    cut: Callable[[nn.Module, int, Any, DataInfo], Cut | None]
