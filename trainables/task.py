"""The contracts between a task, the training loop, and whoever hosts a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trainables.blocks import Block
from trainables.prepared import Array, Batch, DataInfo, PreparedData, Split

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


class Meter(Protocol):
    """Measures a split: it hears of batch after batch, and adds up what other workers heard."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Hear what the model gave for a batch, whose labels are in it."""

    def state(self) -> Any:
        """What was heard so far; it pickles, and holds no tensor of a device."""

    def merge(self, states: Sequence[Any]) -> None:
        """Take ``states`` of all workers, one's own included, in place of what was heard."""

    def compute(self, loss: float) -> dict[str, float]:
        """Metrics by name, without the name of the split; ``loss`` is the mean over its units."""


@dataclass(frozen=True)
class Cut:
    """A model divided in two before its block k: ``suffix`` of ``prefix`` is the whole model.

    Only while the first k blocks are frozen: ``prefix`` is computed without gradients.
    """

    # All that decides what ``prefix`` gives, but the data, the weights and the precision.
    identity: str
    # (arrays of a split) -> a number for each sample [n]; samples of one number give activations of
    # one shape, whose first axis counts samples. Others may differ in the second axis.
    groups: Callable[[Mapping[str, Array]], np.ndarray]
    # (raw arrays of samples of one group, that group, a generator per sample if they are to be
    # augmented) -> activations
    prefix: Callable[[Batch, int, Sequence[Generator] | None], Tensor]
    # (activations, zero beyond a sample's own, and the raw arrays if they are needed) -> outputs
    suffix: Callable[[Tensor, Batch | None], Any]
    suffix_needs_inputs: bool


@dataclass(frozen=True)
class Trained:
    """A model with all that is needed to treat new inputs as it was trained."""

    model: nn.Module
    config: Any
    info: DataInfo
    assets: Path
    device: str = "cpu"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a whole split, and the meter that holds the details."""

    metrics: dict[str, float]
    meter: Any


@dataclass(frozen=True)
class Column:
    """The column that a served model and ``thaw predict`` take, and what comes back.

    ``read`` turns what a person types (paths, texts) into (what to call an item, the item).
    """

    name: str
    read: Callable[[Sequence[str]], list[tuple[str, Any]]]
    example: Callable[[], Any]  # one item
    answer: Mapping[str, Any]  # an example of the row that ``decode`` gives for one item


@dataclass(frozen=True)
class Task:
    """What is trained, as a value: ``fit`` turns it into a training function.

    Batches are dictionaries of tensors whose first axis counts samples, or of lists with an element
    per sample, labels among them. A request to a trained model has no labels.
    """

    name: str
    # (config, cache folder) -> splits. Raises InputError. Imports torch only if the data needs it.
    prepare: Callable[[Any, Path], PreparedData]
    # (items as ``column`` has them, config, info, assets) -> raw arrays as a split holds them,
    # without labels. Raises InputError.
    encode: Callable[[Sequence[Any], Any, DataInfo, Path], dict[str, Array]]
    # (config, info, assets, load weights) -> a model with a head for what is predicted. Without
    # loading, the same architecture from what is at hand: a checkpoint's weights will fill it.
    build: Callable[[Any, DataInfo, Path, bool], nn.Module]
    # (model) -> its blocks, from input to head; together they hold every parameter exactly once
    blocks: Callable[[nn.Module], tuple[Block, ...]]
    # (raw arrays, config, info, generator or None) -> batch, augmented if there is a generator
    transform: Callable[[Batch, Any, DataInfo, Generator | None], Batch]
    # (model, batch) -> outputs
    forward: Callable[[nn.Module, Batch], Any]
    # (outputs, batch, config) -> scalar, summed over the units that ``units`` counts
    loss: Callable[[Any, Batch, Any], Tensor] | None
    meter: Callable[[DataInfo], Meter]
    # (outputs, batch, the items themselves, trained) -> a row of JSON for each item
    decode: Callable[[Any, Batch, Sequence[Any], Trained], list[dict[str, Any]]]
    column: Column
    # The arrays that are labels: all that the loss needs beside the outputs.
    labels: tuple[str, ...] = ("label",)
    # (split) -> how often each sample counts in the loss [n], such as its tokens; None: once
    units: Callable[[Split], np.ndarray] | None = None
    # (evaluation, trained) -> name -> what is worth keeping of it: a figure, a text, JSON
    artifacts: Callable[[Evaluation, Trained], dict[str, Any]] | None = None
    # (model, batch) -> summed loss, for models that compute it themselves while they train; then
    # ``loss`` is None, and validation measures what the meter does.
    step: Callable[[nn.Module, Batch], Tensor] | None = None
    # (trained, batch) -> outputs for ``decode``, where predicting is more than ``forward``
    generate: Callable[[Trained, Batch], Any] | None = None
    # (config) -> samples measured at once, where the usual number might not fit in memory
    evaluation_batch: Callable[[Any], int] | None = None
    # (config) -> how many versions of a sample ``transform`` makes: 1 where it does not augment, 0
    # where each epoch gets new ones. None: it does not augment.
    n_views: Callable[[Any], int] | None = None
    # (model, k, config, info) -> the model cut before block k; None where it can not be, or where
    # nothing worth keeping comes before.
    cut: Callable[[nn.Module, int, Any, DataInfo], Cut | None] | None = None
