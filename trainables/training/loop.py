"""The only training loop: a generator that trains for an epoch, validates, and yields a report.

Every random number of an epoch derives from (seed, epoch, rank). A training that is continued from
a checkpoint therefore gives what the uninterrupted one gives, and nothing that happens between two
epochs can disturb it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.adapting.freezing import (
    check_frozen_blocks,
    set_training_mode,
    thaw,
    trainable_blocks,
)
from trainables.adapting.frozen_prefix import FrozenPrefix, freeze_prefix
from trainables.blocks import Block
from trainables.config import TrainingConfig
from trainables.errors import Diverged, InputError, OutOfMemory
from trainables.prepared import Batch, PreparedData, Split, gather
from trainables.task import EpochReport, Evaluation, Task, TrainingRun
from trainables.torch_settings import (
    autocast,
    mix_seed,
    n_threads,
    peak_memory_bytes,
    reset_peak_memory,
    seeded,
)
from trainables.training.checkpoint import (
    CheckpointDescription,
    load_model_weights,
    load_training_state,
    read_description,
    save_checkpoint,
)
from trainables.training.optim import make_optimizer, make_schedule
from trainables.training.parallel import (
    Parallelism,
    fail_together,
    gather_over_workers,
    parallelism,
    share_buffers,
    sum_over_workers,
)

_EVALUATION_BATCH = 128  # samples; assumed to fit wherever training with gradients does
# Reading the loss waits for the GPU, adding it up waits for the other workers; else it is free.
_STEPS_BETWEEN_CHECKS, _STEPS_BETWEEN_COSTLY_CHECKS = 1, 16


@dataclass
class _Training:
    """The moving parts of one training."""

    task: Task
    config: TrainingConfig
    run: TrainingRun
    data: PreparedData
    model: nn.Module
    blocks: tuple[Block, ...]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    micro_batch_size: int
    parallel: Parallelism
    replica: nn.Module  # the model as it is run in training
    units: np.ndarray  # how often each training sample counts in the loss [n]
    trainable: range | None = None
    prefix: FrozenPrefix | None = None  # of the blocks that are frozen now
    prefix_note: str = ""  # whether the prefix cache was used, and why not
    seconds_saved: float = 0.0  # by the prefix cache, in earlier phases
    epochs_done: int = 0
    history: dict[str, Any] = field(default_factory=lambda: {"best": None, "epochs_since_best": 0})

    @property
    def device(self) -> torch.device:
        return torch.device(self.run.device)


def fit(task: Task, config: TrainingConfig, run: TrainingRun) -> Iterator[EpochReport]:
    """Train ``task`` as ``config`` says, and yield a report after each epoch.

    Raises:
        InputError: the configuration does not suit the data, the model or the device.
        Diverged: the loss stopped being finite.
        OutOfMemory: not even a micro-batch of one sample fits.
        DamagedCheckpoint: ``run.resume_from`` can not be used.
    """
    check_precision(config, run.device)
    with n_threads(run.n_threads):
        training = _start(task, config, run)
        while training.epochs_done < config.epochs and not _stopped_early(training):
            metrics = _train_and_validate(training)
            yield EpochReport(
                training.epochs_done, metrics, _saver(training, metrics), _tags(training)
            )


def check_precision(config: TrainingConfig, device: str) -> None:
    """Raise InputError where ``device`` can not compute in the configured precision."""
    kind = device.partition(":")[0]
    if config.precision == "fp16" and kind != "cuda":
        raise InputError(
            f"precision = 'fp16': needs a CUDA device, and this training runs on {device}; "
            "valid here: 'fp32', 'bf16'"
        )
    if config.precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(
            "precision = 'bf16': this GPU does not compute in bfloat16; valid here: 'fp32', 'fp16'"
        )


def _start(task: Task, config: TrainingConfig, run: TrainingRun) -> _Training:
    data = _prepared(task, config, run)
    _check_sizes(config, run, data)
    with seeded(config.seed):
        model = task.build(config, data.info, data.assets, run.resume_from is None)
    checkpoint = None
    if run.resume_from is not None:
        folder = run.resume_from
        checkpoint = fail_together(run, lambda: _read_checkpoint(task, folder, model))
    blocks = task.blocks(model)
    check_frozen_blocks(config, [block.name for block in blocks])
    parallel = parallelism(run)
    model = parallel.place(model, blocks, run)
    optimizer = make_optimizer(model, blocks, config)
    n_steps = len(_batches(config, run, len(data.splits["train"]), 0)) * config.epochs
    device_type = torch.device(run.device).type
    training = _Training(
        task=task,
        config=config,
        run=run,
        data=data,
        model=model,
        blocks=blocks,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, n_steps),
        scaler=torch.amp.GradScaler(device_type, enabled=config.precision == "fp16"),
        micro_batch_size=config.micro_batch_size or config.batch_size,
        parallel=parallel,
        replica=model,
        units=_units(task, data.splits["train"]),
    )
    if checkpoint is not None:
        _resume(training, *checkpoint)
    return training


# The data of the newest training: the next one in this process hardly ever has other data, and
# looking for it again means asking for the time of every file.
_newest_data: dict[tuple[Any, ...], PreparedData] = {}


def _prepared(task: Task, config: TrainingConfig, run: TrainingRun) -> PreparedData:
    fields = tuple(getattr(config, name) for name in config.DATA_FIELDS)
    key = (task.name, run.cache_folder, *fields)
    known = _newest_data.get(key)
    if known is not None and known.info.fingerprint == run.data_fingerprint:
        return known
    data = task.prepare(config, run.cache_folder)
    if run.data_fingerprint not in (None, data.info.fingerprint):
        raise InputError(
            f"data = {config.data!r}: is not what the sweep began with; its fingerprint is "
            f"{data.info.fingerprint} now and was {run.data_fingerprint}"
        )
    _newest_data.clear()
    _newest_data[key] = data
    return data


def _check_sizes(config: TrainingConfig, run: TrainingRun, data: PreparedData) -> None:
    if config.batch_size < run.world_size:
        raise InputError(
            f"batch_size = {config.batch_size}: must be at least the number of workers, "
            f"{run.world_size}"
        )
    for name, least in (("train", 2 * run.world_size), ("val", 1)):
        if len(data.splits[name]) < least:
            raise InputError(
                f"data = {config.data!r}: its {name} split has {len(data.splits[name])} samples, "
                f"and at least {least} are needed"
            )


def _read_checkpoint(
    task: Task, folder: Path, model: nn.Module
) -> tuple[CheckpointDescription, dict[str, Any]]:
    """Fill ``model`` with a checkpoint's weights; its description and the rest of its state."""
    description = read_description(folder)
    if description.task != task.name:
        raise InputError(
            f"checkpoint {str(folder)!r} is of task {description.task}, not {task.name}"
        )
    load_model_weights(folder, model)
    return description, load_training_state(folder, "cpu")


def _resume(training: _Training, description: CheckpointDescription, state: dict[str, Any]) -> None:
    training.parallel.load_state(training.optimizer, state["optimizer"])
    training.schedule.load_state_dict(state["schedule"])
    training.scaler.load_state_dict(state["scaler"])
    training.epochs_done = description.epoch
    training.history = dict(description.history)
    training.micro_batch_size = min(training.micro_batch_size, training.history["micro_batch_size"])


def _saver(training: _Training, metrics: Mapping[str, float]) -> Any:
    """A function that writes the state as it is now; it does so on the first rank only.

    With a sharded model all ranks have to call it, since none has the whole.
    """

    def save(folder: Path) -> None:
        weights = training.parallel.whole_weights(training.model)
        optimizer = training.parallel.whole_state(training.optimizer)
        if training.run.rank != 0:
            return
        description = CheckpointDescription(
            task=training.task.name,
            config=training.config.model_dump(),
            info=training.data.info,
            epoch=training.epochs_done,
            metrics=metrics,
            history={**training.history, "micro_batch_size": training.micro_batch_size},
        )
        state = {
            "optimizer": optimizer,
            "schedule": training.schedule.state_dict(),
            "scaler": training.scaler.state_dict(),
        }
        save_checkpoint(folder, description, weights, state, training.data.assets)

    return save


def _train_and_validate(training: _Training) -> dict[str, float]:
    config, run, epoch = training.config, training.run, training.epochs_done
    started = time.perf_counter()
    reset_peak_memory(training.device)
    with seeded(config.seed, epoch, run.rank):
        _thaw_for(training, epoch)
        train_loss, n_samples = _train_epoch(training, epoch)
        train_seconds = time.perf_counter() - started
        share_buffers(training.model, run)
        validation = evaluate(
            training.task, training.model, config, training.data, "val", run, training.prefix
        ).metrics
    training.epochs_done = epoch + 1
    if not math.isfinite(validation.get("loss", 0.0)):
        raise Diverged(f"the validation loss is {validation['loss']} after epoch {epoch + 1}")
    parameters = (parameter for parameter in training.model.parameters() if parameter.requires_grad)
    metrics: dict[str, float] = {
        "train_loss": train_loss,
        **{f"val_{name}": value for name, value in validation.items()},
        "seconds": time.perf_counter() - started,
        "samples_per_second": n_samples / train_seconds,
        "trainable_parameters": float(sum(parameter.numel() for parameter in parameters)),
        "peak_memory_bytes": float(peak_memory_bytes(training.device)),
        "learning_rate": float(training.schedule.get_last_lr()[-1]),
    }
    if training.micro_batch_size < config.batch_size:
        metrics["micro_batch_size"] = float(training.micro_batch_size)
    _remember_best(training, metrics)
    return metrics


def _thaw_for(training: _Training, epoch: int) -> None:
    trainable = trainable_blocks(training.config, len(training.blocks), epoch)
    if trainable != training.trainable:
        thaw(training.model, training.blocks, trainable)
        _freeze_below(training, trainable, epoch)
        training.replica = training.parallel.replicate(training.model, training.device)
        training.trainable = trainable
    set_training_mode(training.replica, (), trainable)
    set_training_mode(training.model, training.blocks, trainable)


def _freeze_below(training: _Training, trainable: range, epoch: int) -> None:
    """Take what the blocks below ``trainable`` give from the prefix cache, where that pays."""
    config = training.config
    phase = range(epoch, config.epochs)
    n_epochs = sum(trainable_blocks(config, len(training.blocks), e) == trainable for e in phase)
    if training.prefix is not None:
        training.seconds_saved += training.prefix.seconds_saved
    training.prefix, reason = freeze_prefix(
        training.task,
        training.model,
        training.blocks,
        trainable.start,
        config,
        training.run,
        training.data,
        n_epochs,
    )
    if reason is None:
        training.prefix_note = f"used below block {training.blocks[trainable.start].name}"
    elif not training.prefix_note or (
        trainable.start > 0 and not training.prefix_note.startswith("used")
    ):  # where all blocks train, what was said of an earlier phase still holds
        training.prefix_note = f"not used: {reason}"


def _tags(training: _Training) -> dict[str, str]:
    prefix = training.prefix
    saved = training.seconds_saved + (0.0 if prefix is None else prefix.seconds_saved)
    return {
        "prefix_cache": training.prefix_note,
        "prefix_cache_seconds_saved": f"{saved:.2f}",
    }


def _batches(
    config: TrainingConfig, run: TrainingRun, n_samples: int, epoch: int
) -> list[np.ndarray]:
    """Sample indices of each effective batch, in this epoch's order, the same on every rank.

    A rest too small to be shared out with at least two samples per worker, which batch norm needs,
    is left out: every epoch leaves out others.
    """
    order = np.random.default_rng(mix_seed(config.seed, epoch)).permutation(n_samples)
    batches = [order[i : i + config.batch_size] for i in range(0, n_samples, config.batch_size)]
    if len(batches) > 1 and len(batches[-1]) < 2 * run.world_size:
        batches.pop()
    return batches


def _train_epoch(training: _Training, epoch: int) -> tuple[float, int]:
    """Mean training loss over the epoch per unit, and the number of samples trained on."""
    config, run = training.config, training.run
    generator = torch.Generator().manual_seed(mix_seed(config.seed, epoch, run.rank, 1))
    batches = _batches(config, run, len(training.data.splits["train"]), epoch)
    n_samples = sum(len(batch) for batch in batches)
    n_units = sum(int(training.units[batch].sum()) for batch in batches)
    total = torch.zeros((), device=training.device)
    is_free = run.world_size == 1 and training.device.type == "cpu"
    interval = _STEPS_BETWEEN_CHECKS if is_free else _STEPS_BETWEEN_COSTLY_CHECKS
    for step, batch in enumerate(batches):
        total += _step(training, batch, generator)
        if step == len(batches) - 1 or step % interval == 0:
            found = total.clone()
            sum_over_workers(run, found)  # so that all give up, or none
            if not found.isfinite():
                raise Diverged(
                    f"the training loss is {float(found)} in epoch {epoch + 1}, step {step + 1}, "
                    f"with learning_rate = {config.learning_rate:g}"
                )
    return float(found) / n_units, n_samples


def _step(training: _Training, batch: np.ndarray, generator: torch.Generator) -> Tensor:
    """One optimiser step over this rank's share of an effective batch; returns its summed loss.

    When the GPU's memory does not suffice, the micro-batch is halved and the step done again: the
    effective batch size stays. Not with several workers: the others are in the middle of the step,
    so their host has to start them all again.
    """
    while True:
        try:
            loss = _accumulate(training, batch, generator)
            break
        except torch.OutOfMemoryError as error:
            training.optimizer.zero_grad(set_to_none=True)
            share = math.ceil(len(batch) / training.run.world_size)
            size = min(training.micro_batch_size, share)
            if size == 1 or training.run.world_size > 1:
                raise OutOfMemory(
                    f"out of memory with a micro-batch of {size} on {training.device}"
                ) from error
        training.micro_batch_size = math.ceil(training.micro_batch_size / 2)
        if training.device.type == "cuda":
            torch.cuda.empty_cache()
    if training.config.gradient_clip_norm is not None:
        training.scaler.unscale_(training.optimizer)
        training.parallel.clip_gradients(training.model, training.config.gradient_clip_norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.schedule.step()
    return loss


def _accumulate(training: _Training, batch: np.ndarray, generator: torch.Generator) -> Tensor:
    config, run = training.config, training.run
    n_units = max(1, int(training.units[batch].sum()))  # the same for every piece and worker
    pieces = _pieces(batch, run, training.micro_batch_size)
    training.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=training.device)
    for number, (piece, weight) in enumerate(pieces):
        last = number == len(pieces) - 1
        prepared = _prepared_batch(training, piece, generator)
        with (
            training.parallel.accumulate(training.replica, last),
            autocast(config.precision, training.device),
        ):
            loss = _loss(training, prepared, piece) * weight
            # The mean over the effective batch; the workers' gradients are averaged.
            scaled = training.scaler.scale(loss * (run.world_size / n_units))
            torch.autograd.backward(scaled)
        total += loss.detach()
    return total


def _prepared_batch(training: _Training, piece: np.ndarray, generator: torch.Generator) -> Batch:
    """A micro-batch; its labels alone where the cache has what the model would make of the rest."""
    task, split = training.task, training.data.splits["train"]
    if training.prefix is not None:
        return gather(_labels(task, split), piece, training.device)
    raw = gather(split.arrays, piece, training.device)
    return task.transform(raw, training.config, training.data.info, generator)


def _loss(training: _Training, batch: Batch, piece: np.ndarray) -> Tensor:
    """The summed loss of a micro-batch."""
    task = training.task
    if task.step is not None:
        return task.step(training.replica, batch)
    if training.prefix is None:
        outputs = task.forward(training.replica, batch)
    else:
        outputs = training.prefix.outputs("train", piece, training.epochs_done)
    assert task.loss is not None
    return task.loss(outputs, batch, training.config)


def _labels(task: Task, split: Split) -> dict[str, Any]:
    return {name: split.arrays[name] for name in task.labels}


def _units(task: Task, split: Split) -> np.ndarray:
    units = task.units(split)
    return np.ones(len(split), np.int64) if units is None else units


def _pieces(
    batch: np.ndarray, run: TrainingRun, micro_batch_size: int
) -> list[tuple[np.ndarray, float]]:
    """This rank's share of a batch in micro-batches, and how much each counts.

    All ranks have as many. One whose share is a sample smaller may have one micro-batch less to do:
    then a sample goes in its place, and counts nothing. It comes first, since gradients are shared
    after the last.
    """
    share = batch[run.rank :: run.world_size]
    n_pieces = math.ceil(math.ceil(len(batch) / run.world_size) / micro_batch_size)
    pieces = [piece for piece in np.array_split(share, n_pieces) if len(piece)]
    lacking = [(share[:1], 0.0)] * (n_pieces - len(pieces))
    return lacking + [(piece, 1.0) for piece in pieces]


def evaluate(
    task: Task,
    model: nn.Module,
    config: TrainingConfig,
    data: PreparedData,
    split_name: str,
    run: TrainingRun,
    prefix: FrozenPrefix | None = None,
) -> Evaluation:
    """Measure ``model`` on a split, shared out over the workers; each gets the whole result.

    The loss, per unit, is that of ``config.for_evaluation()``.
    """
    device, split = torch.device(run.device), data.splits[split_name]
    at_once = task.evaluation_batch(config) if task.evaluation_batch else _EVALUATION_BATCH
    meter = task.meter(data.info)
    total = torch.zeros((), device=device)
    model.eval()
    parallel = parallelism(run)
    with parallel.evaluation():
        for indices, counts in _evaluation_batches(len(split), at_once, run, parallel):
            with autocast(config.precision, device):
                if prefix is not None:
                    batch = gather(_labels(task, split), indices, device)
                    outputs = prefix.outputs(split_name, indices, 0)
                else:
                    raw = gather(split.arrays, indices, device)
                    batch = task.transform(raw, config, data.info, None)
                    outputs = task.forward(model, batch)
            if counts and task.loss is not None:
                total += task.loss(outputs, batch, config.for_evaluation())
            if counts:
                meter.update(outputs, batch)
        sum_over_workers(run, total)
    if run.world_size > 1:
        meter.merge(gather_over_workers(run, meter.state()))
    n_units = max(1, int(_units(task, split).sum()))
    loss = float(total) / n_units
    metrics = meter.compute(loss)
    return Evaluation(metrics if task.loss is None else {"loss": loss, **metrics}, meter)


def _evaluation_batches(
    n_samples: int, at_once: int, run: TrainingRun, parallel: Parallelism
) -> Iterator[tuple[np.ndarray, bool]]:
    """This rank's share of the samples, in batches, and whether each counts.

    Where the ranks have to run the model equally often, one that has done its share goes on with
    what does not count.
    """
    starts = range(0, n_samples, at_once)
    mine = starts[run.rank :: run.world_size]
    n_batches = math.ceil(len(starts) / run.world_size) if parallel.runs_in_step else len(mine)
    for number in range(n_batches):
        counts = number < len(mine)
        start = mine[number] if counts else 0
        yield np.arange(start, min(start + at_once, n_samples)), counts


def _remember_best(training: _Training, metrics: Mapping[str, float]) -> None:
    monitor = training.config.monitor
    sign = 1 if training.config.metrics()[monitor] == "max" else -1
    best = training.history["best"]
    if best is None or sign * metrics[monitor] > sign * best:
        training.history = {"best": metrics[monitor], "epochs_since_best": 0}
    else:
        training.history["epochs_since_best"] += 1


def _stopped_early(training: _Training) -> bool:
    patience = training.config.early_stopping_patience
    return patience is not None and training.history["epochs_since_best"] >= patience
