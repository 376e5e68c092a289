"""Every option of a sweep, declared once.

The declaration drives `thaw sweep`, `thaw resume`, `thaw submit` and ``tuning.sweep``: their
parameters, help and checks. ``Sweep`` inherits the options that it keeps, so that they are saved
with it and opened again; MLflow logs those that say so. A new option needs its declaration here,
and the code that acts on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from trainables.task import STRATEGY_NAMES, Strategy
from tuning.record import quantities
from tuning.record.methods import (
    SCHEDULERS,
    SEARCHERS,
    Scheduler,
    Searcher,
)
from tuning.record.resources import Gpus

ENGINE_NAMES = ("ray", "inprocess")

SEARCH, END = "What is searched, and how", "When it ends"
PLACE, KEPT = "Where and how trials run", "What is kept, and where"
SAME = ""  # a resume has the same help
PANELS = (SEARCH, END, PLACE, KEPT)  # of the help, in this order


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, type and default."""

    help: str
    panel: str
    resume: str | None = None  # its help in `thaw resume`, or SAME; None: not for a resume
    read: Callable[[str], Any] | None = None  # its value from text; raises ValueError "must be …"
    metavar: str | None = None  # what the help calls its value
    flag: str | None = None  # where it does not follow from the name
    env: str | None = None  # an environment variable that gives its default
    at_least: float = -math.inf
    above: float = -math.inf
    choices: tuple[str, ...] = ()
    own_file: bool = False  # FILE.py:NAME is valid beside the choices
    is_logged: bool = False  # as a parameter of the sweep's MLflow run


def _in_words(table: Mapping[str, Searcher | Scheduler]) -> str:
    return "; ".join(f"{name}: {row.summary}" for name, row in table.items())


@dataclass(frozen=True, kw_only=True)
class KeptOptions:
    """The options whose values a sweep keeps; None leaves the choice to Thaw."""

    # fmt: off
    searcher: Annotated[str | None, Option(
        "How to propose configurations; default: curves, or tpe with several metrics. "
        f"{_in_words(SEARCHERS)}. FILE.py:NAME is a sampler of your own.",
        SEARCH, choices=tuple(SEARCHERS), own_file=True, is_logged=True,
    )] = None
    scheduler: Annotated[str, Option(
        f"Which trials may go on. {_in_words(SCHEDULERS)}.",
        SEARCH, choices=tuple(SCHEDULERS), is_logged=True,
    )] = "freeze-thaw"
    cost_aware: Annotated[bool, Option(
        "Prefer configurations that train fast, as learned from the trials so far.",
        SEARCH, is_logged=True,
    )] = False
    seed: Annotated[int, Option(
        "Seed of the search and of every training.", SEARCH, at_least=0, is_logged=True,
    )] = 0

    trials: Annotated[int, Option(
        "Number of configurations to try.", END, at_least=1, is_logged=True,
        resume="Number of configurations to try in all, earlier ones included.",
    )] = 12
    time_budget_seconds: Annotated[float | None, Option(
        "Stop after this time, such as 90s, 10m or 1.5h.",
        END, read=quantities.seconds, metavar="DURATION", above=0, is_logged=True,
        resume="Stop after this time in all; the time before the resume counts too.",
    )] = None
    gpu_hours: Annotated[float | None, Option(
        "Stop when all trials together have held GPUs for this many hours.",
        END, above=0, is_logged=True,
        resume="Stop after this many GPU hours in all; those before the resume count too.",
    )] = None
    target: Annotated[float | None, Option(
        "Stop when a trial's metric reaches this value.", END, is_logged=True, resume=SAME,
    )] = None
    patience: Annotated[int | None, Option(
        "Stop when this many trials in a row have not improved on the best.",
        END, at_least=1, is_logged=True, resume=SAME,
    )] = None
    max_failures: Annotated[int | None, Option(
        "Give up when more trials than this have failed.", END, at_least=0,
    )] = None
    confirm: Annotated[int, Option(
        "Number of best trials to run again at the end, with fresh seeds.",
        END, at_least=0, is_logged=True, resume=SAME,
    )] = 0
    confirm_seeds: Annotated[int, Option(
        "Number of fresh seeds for each trial of --confirm; their mean decides which is best.",
        END, at_least=1, is_logged=True,
        resume="Number of fresh seeds for each trial of --confirm.",
    )] = 3

    engine: Annotated[str, Option(
        "What runs the trials: ray, or inprocess (one after the other, without Ray).",
        PLACE, choices=ENGINE_NAMES, is_logged=True,
    )] = "ray"
    address: Annotated[str | None, Option(
        "Address of a running Ray cluster.", PLACE,
        resume="Address of a running Ray cluster; local stands for this machine.",
    )] = None
    concurrency: Annotated[int | None, Option(
        "Largest number of trials that run at once.", PLACE, at_least=1,
    )] = None
    n_workers: Annotated[int, Option(
        "Number of processes that train one trial together, each with its own GPU.",
        PLACE, at_least=1, is_logged=True,
    )] = 1
    strategy: Annotated[Strategy, Option(
        "How several workers share a model: with ddp each has all of it, with fsdp a part.",
        PLACE, choices=STRATEGY_NAMES, is_logged=True,
    )] = "ddp"
    cpus_per_trial: Annotated[float | None, Option(
        "CPUs for each trial; with several workers, for each of them.", PLACE, above=0,
    )] = None
    gpus_per_trial: Annotated[Gpus | None, Option(
        "GPUs for each trial. 0.5 lets two trials share a GPU; auto lets as many share it as its "
        "memory allows. With several workers: 0 or 1 for each of them.",
        PLACE, read=quantities.gpus, metavar="NUMBER|auto", at_least=0, is_logged=True,
    )] = None
    epoch_timeout_seconds: Annotated[float | None, Option(
        "Count a trial as failed when an epoch takes longer than this.",
        PLACE, read=quantities.seconds, metavar="DURATION", above=0,
    )] = None

    tracking_uri: Annotated[str | None, Option(
        "Address of MLflow; default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this "
        "folder.", KEPT,
    )] = None
    experiment: Annotated[str | None, Option(
        "Name of the MLflow experiment; default: the search space's name.", KEPT,
    )] = None
    keep_checkpoints: Annotated[int, Option(
        "Number of best checkpoints that the sweep keeps.", KEPT, at_least=1,
    )] = 3
    checkpoint_budget_bytes: Annotated[int | None, Option(
        "Disk space for all checkpoints of the sweep, such as 20GB; if they need more, fewer are "
        "kept.", KEPT, read=quantities.n_bytes, metavar="SIZE", at_least=0,
    )] = None
    prefix_cache_bytes: Annotated[int | None, Option(
        "Disk space for the outputs of frozen blocks: auto (the default), off, or a size such as "
        "20GB.", KEPT, read=quantities.cache_bytes, metavar="auto|off|SIZE", at_least=0,
    )] = None
    storage: Annotated[str | None, Option(
        "Database of the Optuna study, sqlite:///… or postgresql://…; default: a journal in the "
        "sweep's folder.", KEPT,
    )] = None
    # fmt: on


@dataclass(frozen=True)
class SweepOptions(KeptOptions):
    """All that a user may say about a sweep; None leaves the choice to Thaw."""

    # fmt: off
    space: Annotated[str, Option(
        "Name of a built-in search space, or a .py file.", SEARCH,
        resume="Go on in this wider or narrower search space: a name or a .py file.",
    )]

    name: Annotated[str | None, Option(
        "Name of the sweep; default: space, date, time.", KEPT,
    )] = None

    settings: Annotated[Sequence[str] | Mapping[str, Any], Option(
        "Fix a setting to a value, so that it is not searched.", SEARCH, flag="--set",
        metavar="KEY=VALUE", resume="Fix a setting to a value from now on.",
    )] = ()
    metric: Annotated[str | Sequence[str] | None, Option(
        "Metric to compare trials by: NAME, NAME:max or NAME:min. With several, the first decides "
        "which trials stop and which is the best.", SEARCH, metavar="METRIC",
    )] = None
    warm_start: Annotated[str | None, Option(
        "Let the searcher learn from the finished trials of an earlier sweep or Optuna study.",
        SEARCH, metavar="SWEEP|URL#STUDY",
    )] = None

    sweeps_folder: Annotated[Path | str, Option(
        "Folder in which sweeps have their folders: a path, s3://BUCKET/PREFIX or gs://…; "
        "default: $THAW_SWEEPS_FOLDER, else sweeps.", KEPT, env="THAW_SWEEPS_FOLDER",
    )] = "sweeps"
    # fmt: on

    @property
    def metrics(self) -> Sequence[str | None]:
        """The metrics as they were given; a single None where none was."""
        given = self.metric or None
        return [given] if given is None or isinstance(given, str) else given


KEPT_NAMES = [each.name for each in fields(KeptOptions)]
_HINTS = get_type_hints(SweepOptions, include_extras=True)
_NAMES = sorted(_HINTS, key=KEPT_NAMES.__contains__)  # what is most often given comes first
OPTIONS: dict[str, Option] = {name: get_args(_HINTS[name])[1] for name in _NAMES}
TYPES: dict[str, Any] = {name: get_args(_HINTS[name])[0] for name in _NAMES}
RESUMABLE = [name for name, each in OPTIONS.items() if each.resume is not None]
