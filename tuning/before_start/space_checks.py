"""What a resolved sweep must pass before anything starts: data, every corner of its space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SpaceError
from trainables.config import TrainingConfig, check_config
from trainables.errors import InputError, unknown
from trainables.tasks.row import TaskRow
from trainables.tasks.table import task_row
from tuning.record.resources import Resources
from tuning.record.sweep import Sweep, data_key
from tuning.search.starting_points import configurations


def prepare_data(sweep: Sweep) -> tuple[Sweep, list[str]]:
    """Make the data of every trial ready on this machine; remote weights too.

    Returns:
        The sweep with its data's fingerprints, and notes on the data for a person to read.

    Raises:
        InputError: the data or the weights can not be used.
    """
    if sweep.space.task is None:
        return sweep, []
    row = task_row(sweep.space.task)
    fingerprints: dict[str, str] = {}
    notes: list[str] = []
    seen: set[tuple[Any, ...]] = set()
    for values in configurations(sweep):
        config = check_config(values, row.config_type)
        row.fetch(config)
        key = tuple(getattr(config, name) for name in row.config_type.DATA_FIELDS)
        if key in seen:
            continue
        seen.add(key)
        data = row.prepare(config, sweep.cache_folder)
        fingerprints[data_key(values, row)] = data.info.fingerprint
        counts = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
        notes.append(f"{config.data}: {counts}; {data.info.summary}")
        notes += data.info.notes
    return replace(sweep, data_fingerprints=fingerprints), notes


def check_space(
    sweep: Sweep, row: TaskRow | None, resources: Resources | None, *, elsewhere: bool = False
) -> None:
    """Raise InputError where a corner of the space, or a sample of it, can not be trained.

    Args:
        resources: what each trial gets; None where that is not known yet.
        elsewhere: the sweep is for another machine, which may have other files.
    """
    if row is None:
        return
    unknown_names = [
        name for name in sweep.space.domains if name not in row.config_type.model_fields
    ]
    if unknown_names:
        raise InputError(
            f"search space {sweep.space.name}: "
            + unknown("setting", unknown_names[0], row.config_type.model_fields)
        )
    try:
        for values in configurations(sweep):
            config = check_config(values, row.config_type)
            if not (elsewhere and _names_files_elsewhere(config, row)):
                row.check(config)
            _check_device(config, resources)
            _check_workers(config, sweep)
    except (InputError, SpaceError) as error:
        raise InputError(f"search space {sweep.space.name}: {error}") from None


def _names_files_elsewhere(config: TrainingConfig, row: TaskRow) -> bool:
    """Whether a setting names a file of another machine: a URI, or a path that is not here."""
    values = [getattr(config, name) for name in row.path_fields]
    return any("://" in value or _is_missing_path(Path(value)) for value in values)


def _is_missing_path(path: Path) -> bool:
    return (path.is_absolute() or path.parts[:1] == ("~",)) and not path.expanduser().exists()


def _check_device(config: TrainingConfig, resources: Resources | None) -> None:
    if config.precision == "fp16" and resources is not None and not resources.gpus_per_trial:
        raise InputError(
            "precision = 'fp16': needs a GPU, and trials get none here; valid here: 'fp32', 'bf16'"
        )


def _check_workers(config: TrainingConfig, sweep: Sweep) -> None:
    if config.batch_size < sweep.n_workers:
        raise InputError(
            f"batch_size = {config.batch_size}: must be at least --workers = {sweep.n_workers}, "
            "because each worker takes a share of it"
        )
    if config.precision == "fp16" and sweep.strategy == "fsdp":
        raise InputError("precision = 'fp16': not with --strategy fsdp; valid: 'fp32', 'bf16'")


def check_gpu_hours(sweep: Sweep, resources: Resources | None) -> None:
    if sweep.gpu_hours is not None and resources is not None and not resources.gpus_per_trial:
        raise InputError(
            f"--gpu-hours = {sweep.gpu_hours:g}: trials get no GPU here, so it would never end the "
            "sweep; valid here: --time-budget"
        )
