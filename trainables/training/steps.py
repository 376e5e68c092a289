"""The steps of an epoch: batches cut into micro-batches and into shares of workers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from trainables.adapting.adapters import check_gradients
from trainables.config import TrainingConfig
from trainables.errors import Diverged, OutOfMemory
from trainables.prepared import Batch, gather
from trainables.task import TrainingRun
from trainables.torch_settings import (
    autocast,
    mix_seed,
)
from trainables.training.evaluation import labels_of
from trainables.training.parallel import sum_over_workers
from trainables.training.running import Training

# Reading the loss waits for the GPU, adding it up waits for the other workers; else it is free.
_STEPS_BETWEEN_CHECKS, _STEPS_BETWEEN_COSTLY_CHECKS = 1, 16


def shuffled_batches(
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


def train_epoch(training: Training, epoch: int) -> tuple[float, int]:
    """Mean training loss over the epoch per unit, and the number of samples trained on."""
    config, run = training.config, training.run
    generator = torch.Generator().manual_seed(mix_seed(config.seed, epoch, run.rank, 1))
    batches = shuffled_batches(config, run, len(training.data.splits["train"]), epoch)
    n_samples = sum(len(batch) for batch in batches)
    n_units = sum(int(training.units[batch].sum()) for batch in batches)
    total = torch.zeros((), device=training.device)
    is_free = run.world_size == 1 and training.device.type == "cpu"
    interval = _STEPS_BETWEEN_CHECKS if is_free else _STEPS_BETWEEN_COSTLY_CHECKS
    for step, batch in enumerate(batches):
        total += _step(training, batch, generator)
        if step == 0 and training.base is not None:
            check_gradients(training.model)
        if step == len(batches) - 1 or step % interval == 0:
            found = total.clone()
            sum_over_workers(run, found)  # so that all give up, or none
            if not found.isfinite():
                raise Diverged(
                    f"the training loss is {float(found)} in epoch {epoch + 1}, step {step + 1}, "
                    f"with learning_rate = {config.learning_rate:g}"
                )
    return float(found) / n_units, n_samples


def _step(training: Training, batch: np.ndarray, generator: torch.Generator) -> Tensor:
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


def _accumulate(training: Training, batch: np.ndarray, generator: torch.Generator) -> Tensor:
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


def _prepared_batch(training: Training, piece: np.ndarray, generator: torch.Generator) -> Batch:
    """A micro-batch; its labels alone where the cache has what the model would make of the rest."""
    task, split = training.task, training.data.splits["train"]
    if training.prefix is not None:
        return gather(labels_of(task, split), piece, training.device)
    raw = gather(split.arrays, piece, training.device)
    return task.transform(raw, training.config, training.data.info, generator)


def _loss(training: Training, batch: Batch, piece: np.ndarray) -> Tensor:
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
