"""The only training loop: a generator that trains for an epoch, validates, and yields a report.

Every random number of an epoch derives from (seed, epoch, rank). A training that is continued from
a checkpoint therefore gives what the uninterrupted one gives, and nothing that happens between two
epochs can disturb it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.adapting.adapters import only, saved_names
from trainables.config import TrainingConfig
from trainables.errors import Diverged
from trainables.task import EpochReport, Task, TrainingRun
from trainables.torch_settings import (
    n_threads,
    peak_memory_bytes,
    reset_peak_memory,
    seeded,
)
from trainables.training.checkpoint import (
    CheckpointDescription,
    save_checkpoint,
)
from trainables.training.evaluation import evaluate
from trainables.training.parallel import share_buffers
from trainables.training.running import Training, prefix_tags, thaw_for
from trainables.training.start import check_precision, start_training
from trainables.training.steps import train_epoch


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
        training = start_training(task, config, run)
        while training.epochs_done < config.epochs and not _stopped_early(training):
            metrics = _train_and_validate(training)
            yield EpochReport(
                training.epochs_done, metrics, _saver(training, metrics), prefix_tags(training)
            )


def _saver(training: Training, metrics: Mapping[str, float]) -> Any:
    """A function that writes the state as it is now; it does so on the first rank only.

    With a sharded model all ranks have to call it, since none has the whole.
    """

    def save(folder: Path) -> None:
        weights = training.parallel.whole_weights(training.model)
        optimizer = training.parallel.whole_state(training.optimizer)
        if training.run.rank != 0:
            return
        if training.base is not None:
            names = saved_names(training.model, training.blocks, training.config)
            weights = only(names, weights)
        description = CheckpointDescription(
            task=training.task.name,
            config=training.config.model_dump(),
            info=training.data.info,
            epoch=training.epochs_done,
            metrics=metrics,
            history={**training.history, "micro_batch_size": training.micro_batch_size},
            base=training.base,
        )
        state = {
            "optimizer": optimizer,
            "schedule": training.schedule.state_dict(),
            "scaler": training.scaler.state_dict(),
        }
        save_checkpoint(folder, description, weights, state, training.data.assets)

    return save


def _train_and_validate(training: Training) -> dict[str, float]:
    config, run, epoch = training.config, training.run, training.epochs_done
    started = time.perf_counter()
    reset_peak_memory(training.device)
    with seeded(config.seed, epoch, run.rank):
        thaw_for(training, epoch)
        train_loss, n_samples = train_epoch(training, epoch)
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


def _remember_best(training: Training, metrics: Mapping[str, float]) -> None:
    monitor = training.config.monitor
    sign = 1 if training.config.metrics()[monitor] == "max" else -1
    best = training.history["best"]
    if best is None or sign * metrics[monitor] > sign * best:
        training.history = {"best": metrics[monitor], "epochs_since_best": 0}
    else:
        training.history["epochs_since_best"] += 1


def _stopped_early(training: Training) -> bool:
    patience = training.config.early_stopping_patience
    return patience is not None and training.history["epochs_since_best"] >= patience
