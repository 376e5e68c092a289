"""The start of a training: its data, model and optimiser, new or from a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

from trainables.config import TrainingConfig
from trainables.errors import InputError
from trainables.prepared import PreparedData
from trainables.strategies import strategy_of
from trainables.task import Task, TrainingRun
from trainables.training.checkpoint import (
    CheckpointDescription,
    load_training_state,
    read_description,
)
from trainables.training.evaluation import units_of
from trainables.training.models import BuiltModel, new_model, saved_model
from trainables.training.optim import make_optimizer, make_schedule
from trainables.training.parallel import (
    fail_together,
    parallelism,
)
from trainables.training.running import Training
from trainables.training.steps import shuffled_batches


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


def start_training(task: Task, config: TrainingConfig, run: TrainingRun) -> Training:
    """A training before its first epoch, or after the last one of ``run.resume_from``.

    Raises:
        InputError: the configuration does not suit the data, the model or the device.
        DamagedCheckpoint: ``run.resume_from`` can not be used.
    """
    data = _prepared(task, config, run)
    _check_sizes(config, run, data)
    built, checkpoint = fail_together(run, lambda: _build(task, config, run, data))
    blocks = built.blocks
    parallel = parallelism(run)
    model = parallel.place(built.module, blocks, run)
    optimizer = make_optimizer(model, blocks, config)
    n_steps = len(shuffled_batches(config, run, len(data.splits["train"]), 0)) * config.epochs
    device_type = torch.device(run.device).type
    training = Training(
        task=task,
        config=config,
        run=run,
        data=data,
        model=model,
        blocks=blocks,
        base=built.base,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, config, n_steps),
        scaler=torch.amp.GradScaler(device_type, enabled=config.precision == "fp16"),
        micro_batch_size=config.micro_batch_size or config.batch_size,
        parallel=parallel,
        replica=model,
        units=units_of(task, data.splits["train"]),
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


def _build(
    task: Task, config: TrainingConfig, run: TrainingRun, data: PreparedData
) -> tuple[BuiltModel, tuple[CheckpointDescription, dict[str, Any]] | None]:
    """The model, and a checkpoint's description and the rest of its state where there is one."""
    folder, info, assets = run.resume_from, data.info, data.assets
    if folder is None:
        return new_model(task, config, info, assets), None
    description = read_description(folder)
    if description.task != task.name:
        raise InputError(
            f"checkpoint {str(folder)!r} is of task {description.task}, not {task.name}"
        )
    if strategy_of(config).has_adapters and description.base is None:
        raise InputError(
            f"checkpoint {str(folder)!r} holds a whole model, and freezing = {config.freezing!r} "
            "goes on from adapters; take a checkpoint of a training with that setting"
        )
    built = saved_model(task, config, info, assets, folder, description)
    return built, (description, load_training_state(folder, "cpu"))


def _resume(training: Training, description: CheckpointDescription, state: dict[str, Any]) -> None:
    training.parallel.load_state(training.optimizer, state["optimizer"])
    training.schedule.load_state_dict(state["schedule"])
    training.scaler.load_state_dict(state["scaler"])
    training.epochs_done = description.epoch
    training.history = dict(description.history)
    training.micro_batch_size = min(training.micro_batch_size, training.history["micro_batch_size"])
