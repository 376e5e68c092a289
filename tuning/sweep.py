"""The resolved description of a sweep, and everything that is checked before anything starts."""

from __future__ import annotations

import json
import math
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace, SpaceError
from trainables.config import TrainingConfig, check_config, parse_setting
from trainables.errors import InputError, unknown
from trainables.files import write_whole
from trainables.metrics import METRIC_ALIASES, METRIC_DIRECTIONS, Direction
from trainables.tasks import TaskRow, task_row
from tuning.addresses import check_writable, resolve_address, resolve_tracking_uri
from tuning.moving import Moved, find_moved, relocate
from tuning.resources import Gpus, Resources, share_out, this_machine
from tuning.spaces import LoadedSpace, load_space
from tuning.starting_points import with_defaults_first

SWEEP_FILE = "sweep.json"
ENGINE_NAMES = ("ray", "inprocess")
# of samplers.SEARCHERS, which imports optuna
SEARCHER_NAMES = ("curves", "tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random", "grid")
OF_ONE_OBJECTIVE = ("curves", "cmaes")
COST_AWARE_NAMES = ("tpe",)  # of samplers.COST_AWARE
# of schedulers.SCHEDULERS, likewise
SCHEDULER_NAMES = ("freeze-thaw", "asha", "hyperband", "median", "none")
_N_SAMPLES_CHECKED = 32  # beside all corners of the space
_MAX_EPOCHS_WITHOUT_FIELD = 100  # for a user's own training that has no `epochs` setting


def default_cache_folder() -> Path:
    """$THAW_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("THAW_CACHE") or f"{base}/thaw").expanduser()


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
    sweeps_folder: Path = Path("sweeps")
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


@dataclass(frozen=True)
class Sweep:
    """A sweep, resolved and checked: all that is needed to run it, or to run it again."""

    name: str
    folder: Path
    space: SearchSpace
    train_file: Path | None  # the user's own training function
    metric: str
    mode: Direction
    trials: int
    time_budget_seconds: float | None
    cpus_per_trial: float | None
    gpus_per_trial: Gpus | None
    concurrency: int | None
    seed: int
    searcher: str
    scheduler: str
    engine: str
    tracking_uri: str
    experiment: str
    keep_checkpoints: int
    max_failures: int | None
    address: str | None
    cache_folder: Path
    prefix_cache_bytes: int | None = None  # 0: off; None: chosen on each machine
    checkpoint_budget_bytes: int | None = None  # of the whole sweep
    # Without a report: the trial has failed then, and its process ends.
    epoch_timeout_seconds: float | None = None
    # Budgets and goals: see goals.py
    gpu_hours: float | None = None
    target: float | None = None  # value of the metric
    patience: int | None = None  # trials that end without improving on the best
    # At the end, so many of the best are run again, with so many fresh seeds each: see confirm.py
    confirm: int = 0
    confirm_seeds: int = 3
    cost_aware: bool = False  # propose by expected improvement per second: see cost.py
    # what decides the data, as ``data_key`` has it -> its fingerprint
    data_fingerprints: Mapping[str, str] = field(default_factory=dict)
    train_source: Path | None = None  # where the user keeps it; ``train_file`` may be our copy
    began_in: Path | None = None  # the folder that the sweep had at first
    moved: Moved = field(default_factory=dict)  # since the last sitting; not saved
    other_metrics: Mapping[str, Direction] = field(default_factory=dict)  # objectives but the first
    storage: str | None = None
    warm_start: Mapping[str, Any] = field(default_factory=dict)  # as warm_start.py has it

    @property
    def objectives(self) -> dict[str, Direction]:
        """What trials are compared by. By the first alone they are stopped, kept and ranked."""
        return {self.metric: self.mode, **self.other_metrics}

    @property
    def task(self) -> str:
        """The task's name; a user's own training goes by its file's."""
        return self.space.task or (self.train_file.stem if self.train_file else "")

    def configuration(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The full, resolved configuration of a trial at ``point``."""
        values = {"seed": self.seed, **self.space.configuration(point)}
        if self.space.task is None:
            return values
        values.setdefault("monitor", self.metric)
        return check_config(values, task_row(self.space.task).config_type).model_dump()

    def data_fingerprint(self, values: Mapping[str, Any]) -> str | None:
        """The fingerprint of the data of a full configuration; None for a user's own training."""
        if self.space.task is None:
            return None
        return self.data_fingerprints.get(data_key(values, task_row(self.space.task)))

    def max_epochs(self) -> int:
        """The largest number of epochs that a trial may have."""
        domain = self.space.domains.get("epochs")
        value = max(domain.grid(2)) if domain is not None else self.configuration_default("epochs")  # type: ignore[type-var]
        return int(value) if isinstance(value, (int, float)) else _MAX_EPOCHS_WITHOUT_FIELD

    def configuration_default(self, name: str) -> Any:
        """The value of a setting that is not searched: as fixed, else the task's default."""
        if name in self.space.fixed or self.space.task is None:
            return self.space.fixed.get(name)
        return task_row(self.space.task).config_type.model_fields[name].default

    def save(self) -> None:
        """Write the description into the sweep's folder."""
        values = {
            **{name: value for name, value in vars(self).items() if name != "space"},
            "folder": str(self.folder),  # to see what has moved; it is wherever it is found
            "train_file": None if self.train_file is None else self.train_file.name,
            "train_source": None if self.train_source is None else str(self.train_source),
            "began_in": str(self.began_in or self.folder),
            "cache_folder": None,
            "moved": {},
            "searcher": _searcher_in(None, self.searcher),
            "space": self.space.to_json(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.train_file is not None:
            _copy(self.train_file, self.folder / self.train_file.name)
        if ":" in self.searcher:
            copy = _searcher_in(self.folder, self.searcher)
            _copy(Path(self.searcher.rpartition(":")[0]), Path(copy.rpartition(":")[0]))
        write_whole(self.folder / SWEEP_FILE, json.dumps(values, indent=1))


def _searcher_in(folder: Path | None, searcher: str) -> str:
    """``FILE.py:NAME`` with the file in a sweep's folder, or with no folder; others as they are."""
    file, colon, name = searcher.rpartition(":")
    if not colon:
        return searcher
    # A folder of its own: the user's training may be in a file of the same name.
    return f"{Path(file).name if folder is None else folder / 'searcher' / Path(file).name}:{name}"


def _copy(file: Path, copy: Path) -> None:
    if copy != file:
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())


def open_sweep(name: str, sweeps_folder: Path) -> Sweep:
    """The sweep that was saved as ``name``, or in the folder ``name``.

    Raises:
        InputError: there is none, or its description is damaged.
    """
    folder = Path(name) if (Path(name) / SWEEP_FILE).is_file() else sweeps_folder / name
    path = folder / SWEEP_FILE
    if not path.is_file():
        names = [file.parent.name for file in sorted(sweeps_folder.glob(f"*/{SWEEP_FILE}"))]
        hint = f"{unknown('sweep', name, names)}" if names else f"unknown sweep {name!r}"
        raise InputError(f"{hint}; looked in {str(sweeps_folder.resolve())!r}")
    try:
        return _from_json(json.loads(path.read_text()), folder.resolve())
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"sweep description {str(path)!r} is damaged: {reason}") from error


def _from_json(values: Mapping[str, Any], folder: Path) -> Sweep:
    """The sweep as saved, with what has moved along with its folder at the new places."""
    space = SearchSpace.from_json(values["space"])
    tracking_file = values["tracking_uri"].removeprefix("sqlite:///")
    source = values.get("train_source")
    moved: Moved = {}
    if values["folder"] is not None:
        paths = {**space.fixed, ".tracking": tracking_file, ".source": source}
        moved = find_moved(paths, Path(values["folder"]), folder)
    source = None if source is None else Path(moved.get(source, source))
    train_file = values["train_file"]
    began_in = values.get("began_in") or values["folder"]
    return Sweep(
        **{
            **values,
            "folder": folder,
            "train_file": None if train_file is None else folder / train_file,
            "train_source": source,
            "began_in": None if began_in is None else Path(began_in),
            "cache_folder": default_cache_folder(),
            "searcher": _searcher_in(folder, values["searcher"]),
            "space": replace(space, fixed=relocate(space.fixed, moved)),
            "tracking_uri": values["tracking_uri"].replace(
                tracking_file, moved.get(tracking_file, tracking_file)
            ),
            "moved": moved,
        }
    )


def resolve(options: SweepOptions) -> Sweep:
    """Check everything that can be checked without starting anything, and fill in the rest.

    Raises:
        InputError: something is wrong; nothing was started or written.
    """
    _check_numbers(options)
    for kind, value, valid in (
        ("searcher", options.searcher, SEARCHER_NAMES),
        ("scheduler", options.scheduler, SCHEDULER_NAMES),
        ("engine", options.engine, ENGINE_NAMES),
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
    loaded = load_space(options.space)
    row = None if loaded.space.task is None else task_row(loaded.space.task)
    space = _override(loaded.space, options.settings, row)
    metric, mode = _metric(options.metric, space, row)
    other_metrics = _other_metrics(options, metric, space, row)
    if row is not None:
        space = _with_absolute_paths(_with_monitor(space, metric), row)
        space = with_defaults_first(space, row.config_type)
    name = options.name
    if name is None:
        name = f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    sweep = Sweep(
        name=name,
        folder=(options.sweeps_folder / name).resolve(),
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
        tracking_uri=resolve_tracking_uri(options.tracking_uri),
        experiment=space.name if options.experiment is None else options.experiment,
        keep_checkpoints=options.keep_checkpoints,
        max_failures=options.max_failures,
        epoch_timeout_seconds=options.epoch_timeout_seconds,
        address=resolve_address(options.address) if options.engine == "ray" else None,
        cache_folder=default_cache_folder().resolve(),
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
    )
    _check_name(sweep)
    resources = local_resources(sweep) if sweep.address is None else None
    _check_space(sweep, row, resources)
    _check_gpu_hours(sweep, resources)
    if sweep.storage is not None:
        from tuning.study_mirror import check_study  # imports optuna

        check_study(sweep)
    if options.warm_start is not None:
        from tuning.warm_start import read_warm_start  # which opens sweeps

        sweep = replace(sweep, warm_start=read_warm_start(options.warm_start, sweep))
    return sweep


def _searcher_name(options: SweepOptions, other_metrics: Mapping[str, Direction]) -> str:
    """The searcher asked for, else the best that there is for the task."""
    return options.searcher or ("tpe" if other_metrics or options.cost_aware else "curves")


def _searcher(name: str, space: SearchSpace, n_objectives: int) -> str:
    """A searcher's name; a user's own by its file's whole path, once it is seen to work."""
    file, colon, sampler = name.rpartition(":")
    if not colon:
        return name
    from tuning.samplers import check_own_sampler  # imports optuna, as the file does

    check_own_sampler(name, space, n_objectives)
    return f"{Path(file).expanduser().resolve()}:{sampler}"


def _storage(url: str) -> str:
    """A study's storage; a SQLite file by its whole path, for a resume from elsewhere."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise InputError(
            f"--storage = {url!r}: must be such as sqlite:///FILE.db or "
            "postgresql://USER@HOST/DATABASE"
        )
    if scheme != "sqlite":
        return url
    path = Path(rest.removeprefix("/")).expanduser()
    return f"{scheme}:///{path.resolve()}"


def local_resources(sweep: Sweep) -> Resources:
    """What each trial gets when the sweep runs on this machine alone."""
    n_cpus, n_gpus = this_machine()
    return resources_of(sweep, n_cpus, n_gpus)


def resources_of(sweep: Sweep, n_cpus: float, n_gpus: float) -> Resources:
    """What each trial gets of ``n_cpus`` and ``n_gpus``."""
    return share_out(
        n_cpus,
        n_gpus,
        cpus_per_trial=sweep.cpus_per_trial,
        gpus_per_trial=sweep.gpus_per_trial,
        concurrency=sweep.concurrency,
    )


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
    for values in _configurations(sweep):
        config = check_config(values, row.config_type)
        row.fetch(config)
        key = tuple(getattr(config, name) for name in row.config_type.DATA_FIELDS)
        if key in seen:
            continue
        seen.add(key)
        data = row.prepare(config, sweep.cache_folder)
        fingerprints[data_key(values, row)] = data.info.fingerprint
        counts = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
        notes.append(f"{config.data}: {counts}; {len(data.info.classes)} classes")
        notes += data.info.notes
    return replace(sweep, data_fingerprints=fingerprints), notes


def data_key(values: Mapping[str, Any], row: TaskRow) -> str:
    """The settings that decide what the data of a configuration is, as text."""
    return json.dumps([values[name] for name in row.config_type.DATA_FIELDS])


def extend(
    sweep: Sweep,
    *,
    trials: int | None,
    time_budget_seconds: float | None,
    address: str | None,
    gpu_hours: float | None = None,
    target: float | None = None,
    patience: int | None = None,
    confirm: int | None = None,
    confirm_seeds: int | None = None,
) -> Sweep:
    """A saved sweep with other budgets or goals, or on another cluster; None leaves it as it was.

    Raises:
        InputError: a number is out of range, or no cluster answers at the address.
    """
    _check_rules(
        (
            ("--trials", trials, 1, True),
            ("--time-budget", time_budget_seconds, 0, False),
            ("--gpu-hours", gpu_hours, 0, False),
            ("--target", target, -math.inf, False),
            ("--patience", patience, 1, True),
            ("--confirm", confirm, 0, True),
            ("--confirm-seeds", confirm_seeds, 1, True),
        )
    )
    return replace(
        sweep,
        trials=trials or sweep.trials,
        time_budget_seconds=time_budget_seconds or sweep.time_budget_seconds,
        address=sweep.address if address is None else resolve_address(address),
        gpu_hours=gpu_hours or sweep.gpu_hours,
        target=sweep.target if target is None else target,
        patience=patience or sweep.patience,
        confirm=sweep.confirm if confirm is None else confirm,
        confirm_seeds=confirm_seeds or sweep.confirm_seeds,
    )


def change_space(sweep: Sweep, name_or_path: str | None, settings: Sequence[str]) -> Sweep:
    """A saved sweep that goes on in another space: the one given, else its own, with ``settings``.

    Domains may be widened, narrowed, fixed or added. What is fixed before and after may not change:
    the trials so far could not be compared with those to come.

    Raises:
        InputError: the space is not valid, or not for this sweep.
    """
    if name_or_path is None and not settings:
        return sweep
    if sweep.searcher == "grid":
        raise InputError(
            f"--space, --set: sweep {sweep.name} searches a grid, which is another one in another "
            "space; `thaw sweep` begins a new one"
        )
    loaded = LoadedSpace(sweep.space, sweep.train_file)
    if name_or_path is not None:
        loaded = load_space(name_or_path)
        if loaded.space.task != sweep.space.task:
            raise InputError(
                f"--space {name_or_path!r}: its task is {loaded.space.task}, and that of sweep "
                f"{sweep.name} is {sweep.space.task}"
            )
    row = None if sweep.space.task is None else task_row(sweep.space.task)
    space = _override(loaded.space, settings, row)
    if row is not None:
        space = _with_absolute_paths(_with_monitor(space, sweep.metric), row)
    source = sweep.train_source if name_or_path is None else loaded.train_file
    changed = replace(sweep, space=space, train_file=loaded.train_file, train_source=source)
    _check_comparable(sweep, changed)
    _check_space(changed, row, None if sweep.address else local_resources(sweep))
    return changed


def _check_comparable(old: Sweep, new: Sweep) -> None:
    searched = {*old.space.domains, *new.space.domains}
    for name in new.space.fixed:
        known = old.space.task is not None or name in old.space.fixed
        before, now = old.configuration_default(name), new.configuration_default(name)
        if known and name not in searched and before != now:
            raise InputError(
                f"{name} = {now!r}: was {before!r} in sweep {old.name}, and trials of the two can "
                "not be compared; `thaw sweep` begins a new sweep"
            )


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
    )
    _check_rules(rules)


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


def _check_rules(rules: Sequence[_Rule]) -> None:
    for name, value, least, inclusive in rules:
        if value is None:
            continue
        if not math.isfinite(value):
            raise InputError(f"{name} = {value:g}: must be finite")
        if not (value >= least if inclusive else value > least):
            bound = "at least" if inclusive else "greater than"
            raise InputError(f"{name} = {value:g}: must be {bound} {least:g}")


def _override(space: SearchSpace, settings: Sequence[str], row: TaskRow | None) -> SearchSpace:
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
    name, colon, direction = (given or str(space.fixed.get("monitor", "val_accuracy"))).partition(
        ":"
    )
    if row is not None:  # a user's own training reports what it likes
        name = METRIC_ALIASES.get(name, name)
    if colon and direction not in ("max", "min"):
        raise InputError(f"--metric {given!r}: after the colon must be max or min")
    if row is not None and name not in METRIC_DIRECTIONS:
        raise InputError(unknown("metric", name, METRIC_DIRECTIONS))
    if not colon and name not in METRIC_DIRECTIONS:
        raise InputError(f"--metric {name!r}: say which way is better: {name}:max or {name}:min")
    natural = METRIC_DIRECTIONS.get(name)
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


def _with_monitor(space: SearchSpace, metric: str) -> SearchSpace:
    """The space whose trainings watch the metric that the sweep compares them by."""
    return replace(space, fixed={**space.fixed, "monitor": metric})


def _with_absolute_paths(space: SearchSpace, row: TaskRow) -> SearchSpace:
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
    if (sweep.folder / SWEEP_FILE).exists():
        raise InputError(
            f"--name {sweep.name!r}: that sweep exists already, in {str(sweep.folder)!r}; "
            f"`thaw resume {sweep.name}` continues it, another --name starts a new one"
        )
    check_writable(sweep.folder.parent, "--sweeps-folder")


def _configurations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """The starting points, the corners and a sample of the space, as full configurations."""
    generator = random.Random(sweep.seed)
    points = [sweep.space.complete(point, generator) for point in sweep.space.starting_points]
    points += sweep.space.corners()
    points += (sweep.space.sample(generator) for _ in range(_N_SAMPLES_CHECKED))
    for point in points:
        yield sweep.configuration(point)


def _check_space(sweep: Sweep, row: TaskRow | None, resources: Resources | None) -> None:
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
        for values in _configurations(sweep):
            config = check_config(values, row.config_type)
            row.check(config)
            _check_device(config, resources)
    except (InputError, SpaceError) as error:
        raise InputError(f"search space {sweep.space.name}: {error}") from None


def _check_device(config: TrainingConfig, resources: Resources | None) -> None:
    if config.precision == "fp16" and resources is not None and not resources.gpus_per_trial:
        raise InputError(
            "precision = 'fp16': needs a GPU, and trials get none here; valid here: 'fp32', 'bf16'"
        )


def _check_gpu_hours(sweep: Sweep, resources: Resources | None) -> None:
    if sweep.gpu_hours is not None and resources is not None and not resources.gpus_per_trial:
        raise InputError(
            f"--gpu-hours = {sweep.gpu_hours:g}: trials get no GPU here, so it would never end the "
            "sweep; valid here: --time-budget"
        )


def describe(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain values, for a person or a program to read."""
    values = asdict(replace(sweep, space=None))  # type: ignore[arg-type]
    return {
        **{
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        },
        "space": sweep.space.to_json(),
    }
