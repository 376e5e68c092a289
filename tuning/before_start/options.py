"""What a user says about a sweep, checked and resolved."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.errors import InputError
from trainables.tasks.row import TaskRow
from trainables.tasks.table import task_row
from tuning.before_start.space_checks import check_gpu_hours, check_space
from tuning.before_start.spaces import (
    LoadedSpace,
    load_space,
    override_space,
    read_objectives,
    with_absolute_paths,
    with_monitor,
)
from tuning.record.option_checks import check_options
from tuning.record.options import KEPT_NAMES, SweepOptions
from tuning.record.sweep import SWEEP_FILE, Sweep, default_cache_folder, local_resources
from tuning.record.uris import split_uri
from tuning.search.starting_points import with_defaults_first
from tuning.search.study_storage import check_no_password, masked
from tuning.storage.addresses import (
    check_writable,
    resolve_address,
    resolve_tracking_uri,
    tracking_uri_elsewhere,
)
from tuning.storage.remote import RemoteError, RemoteFolder, check_writable_uri
from tuning.storage.saved_sweeps import place_of


def resolve(options: SweepOptions, *, elsewhere: bool = False) -> Sweep:
    """Check everything that can be checked without starting anything, and fill in the rest.

    Args:
        elsewhere: the sweep will run on another machine. Its folders, Ray, MLflow, CPUs, GPUs, data
            and earlier sweeps are not looked at, and paths of data stay as they are given.

    Raises:
        InputError: something is wrong; nothing was started or written.
    """
    check_options(options)
    loaded = load_space(options.space)
    row = None if loaded.space.task is None else task_row(loaded.space.task)
    sweep = _assemble(options, loaded, row, elsewhere=elsewhere)
    _check_name(sweep)
    if elsewhere:
        check_space(sweep, row, None, elsewhere=True)
        return sweep
    _check_new(sweep)
    resources = local_resources(sweep) if sweep.address is None else None
    check_space(sweep, row, resources)
    check_gpu_hours(sweep, resources)
    if sweep.storage is not None:
        from tuning.tracking.optuna_storage import check_study  # imports optuna

        check_study(sweep)
    if options.warm_start is not None:
        from tuning.search.warm_start import read_warm_start  # which opens sweeps

        sweep = replace(sweep, warm_start=read_warm_start(options.warm_start, sweep))
    return sweep


def _assemble(
    options: SweepOptions, loaded: LoadedSpace, row: TaskRow | None, *, elsewhere: bool
) -> Sweep:
    """The sweep, with a value wherever the choice was left to Thaw."""
    space = override_space(loaded.space, options.settings, row)
    objectives = read_objectives(options.metrics, space, row)
    (metric, mode), *others = objectives.items()
    if row is not None:
        space = with_monitor(space, metric)
        space = space if elsewhere else with_absolute_paths(space, row)
        space = with_defaults_first(space, row.config_type)
    name = options.name
    if name is None:
        name = f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    cache_folder = default_cache_folder().resolve()
    folder, home = place_of(name, options.sweeps_folder, cache_folder)
    kept: dict[str, Any] = {name: getattr(options, name) for name in KEPT_NAMES}
    searcher = options.searcher or ("tpe" if others else "curves")
    uri = (tracking_uri_elsewhere if elsewhere else resolve_tracking_uri)(options.tracking_uri)
    joins_ray = options.engine == "ray" and not elsewhere
    chosen = {
        "searcher": _searcher(searcher, space, len(objectives)),
        "tracking_uri": uri,
        "experiment": space.name if options.experiment is None else options.experiment,
        "address": resolve_address(options.address) if joins_ray else None,
        "storage": None if options.storage is None else _storage(options.storage),
    }
    return Sweep(
        **{**kept, **chosen},
        name=name,
        folder=folder,
        home=home,
        space=space,
        train_file=loaded.train_file,
        train_source=loaded.train_file,
        metric=metric,
        mode=mode,
        other_metrics=dict(others),
        cache_folder=cache_folder,
    )


def _searcher(name: str, space: SearchSpace, n_objectives: int) -> str:
    """A searcher's name; a user's own sampler is tried, and named by its file's absolute path."""
    file, colon, sampler = name.rpartition(":")
    if not colon:
        return name
    from tuning.search.samplers import check_own_sampler  # imports optuna, as the file does

    check_own_sampler(name, space, n_objectives)
    return f"{Path(file).expanduser().resolve()}:{sampler}"


def _storage(url: str) -> str:
    """The study's database; a SQLite file by its absolute path, for a resume from elsewhere."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise InputError(
            f"--storage = {masked(url)!r}: must be such as sqlite:///FILE.db or "
            "postgresql://USER@HOST/DATABASE"
        )
    if scheme.partition("+")[0] != "sqlite":
        check_no_password(url, "--storage")
        return url
    path = Path(rest.removeprefix("/")).expanduser()
    return f"{scheme}:///{path.resolve()}"


def _check_name(sweep: Sweep) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", sweep.name):
        raise InputError(
            f"--name {sweep.name!r}: must be 1 to 100 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    if not sweep.experiment.strip():
        raise InputError(f"--experiment = {sweep.experiment!r}: must not be empty")


def _check_new(sweep: Sweep) -> None:
    if sweep.home is not None:
        check_writable_uri(split_uri(sweep.home)[0], "--sweeps-folder")
    if (sweep.folder / SWEEP_FILE).exists() or _is_at_home(sweep):
        copy = "" if sweep.home is None else f" (its working copy here is {str(sweep.folder)!r})"
        raise InputError(
            f"--name {sweep.name!r}: that sweep exists already, in {sweep.place!r}{copy}; "
            f"`thaw resume {sweep.reference}` continues it, another --name starts a new one"
        )
    if sweep.home is None:
        check_writable(sweep.folder.parent, "--sweeps-folder")


def _is_at_home(sweep: Sweep) -> bool:
    try:
        return sweep.home is not None and RemoteFolder(sweep.home).read(SWEEP_FILE) is not None
    except RemoteError as error:
        raise InputError(f"--sweeps-folder: {error}") from error
