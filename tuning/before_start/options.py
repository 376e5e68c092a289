"""What a user may say about a sweep, checked and resolved."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.config import parse_setting
from trainables.errors import InputError, unknown
from trainables.metrics import METRIC_ALIASES, Direction
from trainables.task import STRATEGY_NAMES, Strategy
from trainables.tasks.row import TaskRow
from trainables.tasks.table import known_metrics, task_row
from tuning.before_start.space_checks import check_gpu_hours, check_space
from tuning.before_start.spaces import load_space
from tuning.record.resources import Gpus
from tuning.record.sweep import SWEEP_FILE, Sweep, default_cache_folder, local_resources
from tuning.record.uris import split_uri
from tuning.search.starting_points import with_defaults_first
from tuning.search.study_storage import check_no_password, masked
from tuning.search.table import (
    COST_AWARE_NAMES,
    OF_ONE_OBJECTIVE,
    SCHEDULER_NAMES,
    SEARCHER_NAMES,
)
from tuning.storage.addresses import (
    check_writable,
    resolve_address,
    resolve_tracking_uri,
    tracking_uri_elsewhere,
)
from tuning.storage.remote import RemoteError, RemoteFolder, check_writable_uri
from tuning.storage.saved_sweeps import place_of

ENGINE_NAMES = ("ray", "inprocess")


@dataclass(frozen=True)
class SweepOptions:
    """What a user may say about a sweep; None leaves the choice to Thaw."""

    space: str
    name: str | None = None
    settings: Sequence[str] = ()  # key=value
    trials: int = 12
    time_budget_seconds: float | None = None
    concurrency: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: Gpus | None = None
    seed: int = 0
    metric: str | None = None  # NAME, or NAME:max, NAME:min
    more_metrics: Sequence[str] = ()  # further objectives, likewise
    searcher: str | None = None  # curves; tpe with several metrics
    scheduler: str = "freeze-thaw"
    engine: str = "ray"
    sweeps_folder: Path | str = Path("sweeps")  # or a URI
    tracking_uri: str | None = None
    experiment: str | None = None
    keep_checkpoints: int = 3
    checkpoint_budget: str | None = None  # a size such as 20GB
    max_failures: int | None = None
    epoch_timeout_seconds: float | None = None
    address: str | None = None  # of a running Ray cluster
    prefix_cache: str = "auto"  # or off, or a size such as 20GB
    storage: str | None = None  # of the Optuna study; None: a journal in the sweep's folder
    warm_start: str | None = None  # an earlier sweep, or URL#NAME of an Optuna study
    gpu_hours: float | None = None
    target: float | None = None
    patience: int | None = None
    confirm: int = 0
    confirm_seeds: int = 3
    cost_aware: bool = False
    workers: int = 1  # that train a trial together
    strategy: Strategy = "ddp"


def resolve(options: SweepOptions, *, elsewhere: bool = False) -> Sweep:
    """Check everything that can be checked without starting anything, and fill in the rest.

    Args:
        elsewhere: the sweep will run on another machine. What only that one knows is not looked at:
            its folders, its Ray and MLflow, what it has of CPUs, GPUs, data and earlier sweeps.
            Paths of data stay as they are given.

    Raises:
        InputError: something is wrong; nothing was started or written.
    """
    _check_numbers(options)
    for kind, value, valid in (
        ("searcher", options.searcher, SEARCHER_NAMES),
        ("scheduler", options.scheduler, SCHEDULER_NAMES),
        ("engine", options.engine, ENGINE_NAMES),
        ("strategy", options.strategy, STRATEGY_NAMES),
    ):
        if kind == "searcher" and (value is None or ":" in value):
            continue
        if value is not None and value not in valid:
            raise InputError(unknown(kind, value, valid))
    if options.cost_aware and options.searcher not in (None, *COST_AWARE_NAMES):
        raise InputError(
            f"--cost-aware: --searcher {options.searcher} can not weigh what a trial costs; "
            f"valid: {', '.join(COST_AWARE_NAMES)}"
        )
    if options.cost_aware and options.more_metrics:
        raise InputError(
            f"--cost-aware: weighs the cost against one metric, and {1 + len(options.more_metrics)}"
            " are given by --metric; valid: one of them, or no --cost-aware"
        )
    check_workers(options)
    loaded = load_space(options.space)
    row = None if loaded.space.task is None else task_row(loaded.space.task)
    space = override_space(loaded.space, options.settings, row)
    metric, mode = _metric(options.metric, space, row)
    other_metrics = _other_metrics(options, metric, space, row)
    if row is not None:
        space = with_monitor(space, metric)
        space = space if elsewhere else with_absolute_paths(space, row)
        space = with_defaults_first(space, row.config_type)
    name = options.name
    if name is None:
        name = f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    cache_folder = default_cache_folder().resolve()
    folder, home = place_of(name, options.sweeps_folder, cache_folder)
    sweep = Sweep(
        name=name,
        folder=folder,
        home=home,
        space=space,
        train_file=loaded.train_file,
        train_source=loaded.train_file,
        metric=metric,
        mode=mode,
        trials=options.trials,
        time_budget_seconds=options.time_budget_seconds,
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=options.gpus_per_trial,
        concurrency=options.concurrency,
        seed=options.seed,
        searcher=_searcher(_searcher_name(options, other_metrics), space, 1 + len(other_metrics)),
        scheduler=options.scheduler,
        engine=options.engine,
        tracking_uri=tracking_uri_elsewhere(options.tracking_uri)
        if elsewhere
        else resolve_tracking_uri(options.tracking_uri),
        experiment=space.name if options.experiment is None else options.experiment,
        keep_checkpoints=options.keep_checkpoints,
        max_failures=options.max_failures,
        epoch_timeout_seconds=options.epoch_timeout_seconds,
        address=resolve_address(options.address)
        if options.engine == "ray" and not elsewhere
        else None,
        cache_folder=cache_folder,
        prefix_cache_bytes=_n_bytes("--prefix-cache", options.prefix_cache),
        checkpoint_budget_bytes=None
        if options.checkpoint_budget is None
        else _size("--checkpoint-budget", options.checkpoint_budget, "a size"),
        other_metrics=other_metrics,
        storage=None if options.storage is None else _storage(options.storage),
        gpu_hours=options.gpu_hours,
        target=options.target,
        patience=options.patience,
        confirm=options.confirm,
        confirm_seeds=options.confirm_seeds,
        cost_aware=options.cost_aware,
        n_workers=options.workers,
        strategy=options.strategy,
    )
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


def _searcher_name(options: SweepOptions, other_metrics: Mapping[str, Direction]) -> str:
    """The searcher asked for, else the best that there is for the task."""
    return options.searcher or ("tpe" if other_metrics else "curves")


def _searcher(name: str, space: SearchSpace, n_objectives: int) -> str:
    """A searcher's name; a user's own by its file's whole path, once it is seen to work."""
    file, colon, sampler = name.rpartition(":")
    if not colon:
        return name
    from tuning.search.samplers import check_own_sampler  # imports optuna, as the file does

    check_own_sampler(name, space, n_objectives)
    return f"{Path(file).expanduser().resolve()}:{sampler}"


def _storage(url: str) -> str:
    """A study's storage; a SQLite file by its whole path, for a resume from elsewhere."""
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


def _check_numbers(options: SweepOptions) -> None:
    gpus = options.gpus_per_trial
    rules: tuple[_Rule, ...] = (
        ("--trials", options.trials, 1, True),
        ("--time-budget", options.time_budget_seconds, 0, False),
        ("--concurrency", options.concurrency, 1, True),
        ("--cpus-per-trial", options.cpus_per_trial, 0, False),
        ("--gpus-per-trial", None if gpus == "auto" else gpus, 0, True),
        ("--seed", options.seed, 0, True),
        ("--keep-checkpoints", options.keep_checkpoints, 1, True),
        ("--max-failures", options.max_failures, 0, True),
        ("--epoch-timeout", options.epoch_timeout_seconds, 0, False),
        ("--gpu-hours", options.gpu_hours, 0, False),
        ("--target", options.target, -math.inf, False),
        ("--patience", options.patience, 1, True),
        ("--confirm", options.confirm, 0, True),
        ("--confirm-seeds", options.confirm_seeds, 1, True),
        ("--workers", options.workers, 1, True),
    )
    check_rules(rules)


def check_workers(options: SweepOptions) -> None:
    """Raise InputError where several workers can not train a trial in the way that is asked for."""
    if options.workers == 1:
        if options.strategy != "ddp":
            raise InputError(
                f"--strategy {options.strategy}: shares a model out over several workers, and "
                "--workers = 1; valid: --workers 2 or more"
            )
        return
    check_engine_workers(options.engine, options.workers)
    gpus = options.gpus_per_trial
    if gpus not in (None, 0, 1):
        raise InputError(
            f"--gpus-per-trial = {gpus}: with --workers = {options.workers} it is of each worker, "
            "and workers of one trial can not share a GPU; valid: 0 or 1"
        )


def check_engine_workers(engine: str, n_workers: int) -> None:
    """Raise InputError where the engine is unknown, or can not run so many workers together."""
    if engine not in ENGINE_NAMES:
        raise InputError(unknown("engine", engine, ENGINE_NAMES))
    if engine == "inprocess" and n_workers > 1:
        raise InputError(
            f"--workers = {n_workers}: --engine inprocess has one process; valid: 1, or "
            "--engine ray"
        )


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _n_bytes(option: str, text: str) -> int | None:
    """A size such as 500MB or 20GB in bytes; None for auto, 0 for off."""
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    return _size(option, text, "auto, off, or a size")


def _size(option: str, text: str, wanted: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text, re.IGNORECASE)
    if not found:
        raise InputError(f"{option} = {text!r}: must be {wanted} such as 500MB or 20GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


_Rule = tuple[str, float | None, float, bool]  # option, value, least, whether that is allowed


def check_rules(rules: Sequence[_Rule]) -> None:
    for name, value, least, inclusive in rules:
        if value is None:
            continue
        if not math.isfinite(value):
            raise InputError(f"{name} = {value:g}: must be finite")
        if not (value >= least if inclusive else value > least):
            bound = "at least" if inclusive else "greater than"
            raise InputError(f"{name} = {value:g}: must be {bound} {least:g}")


def override_space(space: SearchSpace, settings: Sequence[str], row: TaskRow | None) -> SearchSpace:
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--set {setting!r}: must be key=value, such as --set epochs=5")
        if name in values:
            raise InputError(f"--set {name}: given twice")
        if row is not None:
            values[name] = parse_setting(name, text, row.config_type)
        else:
            known = [*space.domains, *space.fixed]
            if name not in known:
                raise InputError(unknown("setting", name, known))
            values[name] = _literal(text)
    if not values:
        return space
    if set(space.domains) <= set(values):
        raise InputError(
            "--set fixes every domain of the search space, so there is nothing to search"
        )
    return space.override(values)


def _literal(text: str) -> Any:
    """Text as the number, truth value or None it spells, else as itself."""
    names = {"true": True, "false": False, "none": None}
    if text.lower() in names:
        return names[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _metric(given: str | None, space: SearchSpace, row: TaskRow | None) -> tuple[str, Direction]:
    directions = known_metrics() if row is None else row.metrics
    first = str(space.fixed.get("monitor", next(iter(directions))))
    name, colon, direction = (given or first).partition(":")
    if row is not None:  # a user's own training reports what it likes
        name = METRIC_ALIASES.get(name, name)
    if colon and direction not in ("max", "min"):
        raise InputError(f"--metric {given!r}: after the colon must be max or min")
    if row is not None and name not in directions:
        raise InputError(unknown("metric", name, directions))
    if not colon and name not in directions:
        raise InputError(f"--metric {name!r}: say which way is better: {name}:max or {name}:min")
    natural = directions.get(name)
    if row is not None and colon and direction != natural:
        raise InputError(f"--metric {given!r}: of {name}, the better is the {natural}imum")
    return name, "min" if (direction or natural) == "min" else "max"


def _other_metrics(
    options: SweepOptions, metric: str, space: SearchSpace, row: TaskRow | None
) -> dict[str, Direction]:
    others: dict[str, Direction] = {}
    for given in options.more_metrics:
        name, mode = _metric(given, space, row)
        if name in (metric, *others):
            raise InputError(f"--metric {given!r}: given twice")
        others[name] = mode
    if others and options.searcher in OF_ONE_OBJECTIVE:
        valid = ", ".join(name for name in SEARCHER_NAMES if name not in OF_ONE_OBJECTIVE)
        raise InputError(
            f"--searcher {options.searcher}: searches by one metric, and {1 + len(others)} are "
            f"given; valid for several: {valid}"
        )
    return others


def with_monitor(space: SearchSpace, metric: str) -> SearchSpace:
    """The space whose trainings watch the metric that the sweep compares them by."""
    return replace(space, fixed={**space.fixed, "monitor": metric})


def with_absolute_paths(space: SearchSpace, row: TaskRow) -> SearchSpace:
    """The space with its files named from the root: workers and later commands run elsewhere."""

    def absolute(name: str, value: Any) -> Any:
        known = row.path_fields.get(name)
        if known is None or not isinstance(value, str) or value in known:
            return value
        path = Path(value).expanduser()
        return str(path.resolve()) if path.exists() else value

    return replace(space, fixed={name: absolute(name, v) for name, v in space.fixed.items()})


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
