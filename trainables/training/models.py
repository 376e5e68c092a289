"""A task's model as a training begins with it, and as a checkpoint holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trainables.adapting.adapters import add_adapters, saved_names
from trainables.blocks import Block
from trainables.errors import DamagedCheckpoint
from trainables.prepared import DataInfo
from trainables.strategies import check_block_numbers
from trainables.task import Task
from trainables.torch_settings import seeded
from trainables.training.checkpoint import CheckpointDescription, load_model_weights


@dataclass(frozen=True)
class BuiltModel:
    """A model and its blocks."""

    module: nn.Module
    blocks: tuple[Block, ...]
    base: str | None  # digest of what its checkpoints leave out; None where they hold all of it


def new_model(task: Task, config: Any, info: DataInfo, assets: Path) -> BuiltModel:
    """The model that ``config`` describes, with its adapters; the seed decides what is drawn.

    Raises:
        InputError: the configuration does not suit the model, or its weights can not be read.
    """
    with seeded(config.seed):
        model = task.build(config, info, assets, True)
    blocks = task.blocks(model)
    check_block_numbers(config, [block.name for block in blocks])
    return BuiltModel(model, blocks, add_adapters(model, blocks, config))


def saved_model(
    task: Task,
    config: Any,
    info: DataInfo,
    assets: Path,
    folder: Path,
    description: CheckpointDescription,
) -> BuiltModel:
    """The model that the checkpoint in ``folder`` holds.

    One with adapters alone is put on the base that ``config`` describes, whether that was loaded or
    drawn from the seed.

    Raises:
        DamagedCheckpoint: the weights do not load, or the base is not the one it was trained on.
        InputError: the base's weights can not be read.
    """
    if description.base is None:
        with seeded(config.seed):
            model = task.build(config, info, assets, False)
        load_model_weights(folder, model)
        return BuiltModel(model, task.blocks(model), None)
    built = new_model(task, config, info, assets)
    if built.base != description.base:
        raise DamagedCheckpoint(
            f"checkpoint {str(folder)!r} holds adapters alone, and model {config.model!r} has "
            "other weights now than those that they were trained on; put the former weights in "
            "their place, or use a model that was logged, which holds all of its weights"
        )
    load_model_weights(folder, built.module, saved_names(built.module, built.blocks, config))
    return built
