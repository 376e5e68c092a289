"""Measures a model on a split, over all workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.adapting.frozen_prefix import FrozenPrefix
from trainables.config import TrainingConfig
from trainables.prepared import PreparedData, Split, gather
from trainables.task import Evaluation, Task, TrainingRun
from trainables.torch_settings import autocast
from trainables.training.parallel import (
    Parallelism,
    gather_over_workers,
    parallelism,
    sum_over_workers,
)

_EVALUATION_BATCH = 128  # samples; assumed to fit wherever training with gradients does


def labels_of(task: Task, split: Split) -> dict[str, Any]:
    """The arrays of a split that hold labels."""
    return {name: split.arrays[name] for name in task.labels}


def units_of(task: Task, split: Split) -> np.ndarray:
    """How often each sample of a split counts in the loss [n]."""
    return np.ones(len(split), np.int64) if task.units is None else task.units(split)


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
    plain, meter = config.for_evaluation(), task.meter(data.info)
    total = torch.zeros((), device=device)
    model.eval()
    parallel = parallelism(run)
    with parallel.evaluation():
        for indices, counts in _evaluation_batches(len(split), at_once, run, parallel):
            with autocast(config.precision, device):
                if prefix is not None:
                    batch = gather(labels_of(task, split), indices, device)
                    outputs = prefix.outputs(split_name, indices, 0)
                else:
                    raw = gather(split.arrays, indices, device)
                    batch = task.transform(raw, config, data.info, None)
                    outputs = task.forward(model, batch)
            if not counts:
                continue
            if task.loss is not None:
                total += task.loss(outputs, batch, plain)
            meter.update(outputs, batch)
        sum_over_workers(run, total)
    if run.world_size > 1:
        meter.merge(gather_over_workers(run, meter.state()))
    loss = float(total) / max(1, int(units_of(task, split).sum()))
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
