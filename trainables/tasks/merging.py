"""A checkpoint with adapters as one that needs nothing beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.adapting.adapters import merge_adapters
from trainables.config import check_config
from trainables.tasks.table import task_row
from trainables.training.checkpoint import ASSETS, read_description, save_checkpoint
from trainables.training.models import saved_model


def self_contained(folder: Path, place: Path) -> Path:
    """A checkpoint that holds the whole model, to predict with.

    Args:
        place: where one is written if the checkpoint in ``folder`` holds adapters alone; their
            sums with the base's weights are in it.

    Returns:
        ``folder`` or ``place``.

    Raises:
        DamagedCheckpoint: it is not whole, or not of the base that the configuration names now.
        InputError: the base's weights can not be read.
        OSError: ``place`` can not be written.
    """
    description = read_description(folder)
    if description.base is None:
        return folder
    row = task_row(description.task)
    config: Any = check_config(description.config, row.config_type)
    assets = folder / ASSETS
    built = saved_model(row.load(), config, description.info, assets, folder, description)
    merge_adapters(built.module)
    save_checkpoint(place, replace(description, base=None), built.module, {}, assets)
    return place
