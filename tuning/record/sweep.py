"""The resolved description of a sweep: all that is needed to run it, or to run it again."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.config import check_config
from trainables.files import default_cache_folder as default_cache_folder
from trainables.metrics import Direction
from trainables.tasks.row import TaskRow
from trainables.tasks.table import task_row
from tuning.record.moved_paths import Moved
from tuning.record.options import KeptOptions
from tuning.record.resources import Node, Resources, share_out, this_machine
from tuning.record.uris import split_uri

SWEEP_FILE = "sweep.json"

_MAX_EPOCHS_WITHOUT_FIELD = 100  # for a user's own training that has no `epochs` setting


@dataclass(frozen=True, kw_only=True)
class Sweep(KeptOptions):
    """A sweep, resolved and checked: all that is needed to run it, or to run it again."""

    name: str
    folder: Path  # on this machine; the working copy of a sweep whose home is a URI
    space: SearchSpace
    train_file: Path | None  # the user's own training function
    metric: str
    mode: Direction
    other_metrics: Mapping[str, Direction] = field(default_factory=dict)  # objectives but the first
    # Options that are always chosen by now
    searcher: str
    tracking_uri: str
    experiment: str
    warm_start: Mapping[str, Any] = field(default_factory=dict)  # as warm_start.py has it
    # The settings that decide the data, as ``data_key`` has them -> the data's fingerprint
    data_fingerprints: Mapping[str, str] = field(default_factory=dict)
    train_source: Path | None = None  # where the user keeps it; ``train_file`` may be our copy
    began_in: str | None = None  # the folder or URI that the sweep had at first
    # Not saved
    cache_folder: Path
    moved: Moved = field(default_factory=dict)  # since the last sitting
    home: str | None = None  # the URI where the sweep is kept; None: its folder

    @property
    def place(self) -> str:
        """Where the sweep is kept, for a person to read."""
        return self.home or str(self.folder)

    @property
    def reference(self) -> str:
        """How to name the sweep on a command line in this folder."""
        if self.home is not None:
            return shlex.quote(self.home)
        usual = Path(os.environ.get("THAW_SWEEPS_FOLDER") or "sweeps") / self.name
        folder = self.folder.resolve()
        return self.name if usual.resolve() == folder else shlex.quote(seen_from_here(folder))

    @property
    def siblings(self) -> Path | str:
        """Where the sweeps beside it are kept."""
        return self.folder.parent if self.home is None else split_uri(self.home)[0]

    @property
    def objectives(self) -> dict[str, Direction]:
        """The metrics that trials are compared by; the first decides which are stopped and best."""
        return {self.metric: self.mode, **self.other_metrics}

    @property
    def task(self) -> str:
        """The task's name; for a user's own training, the name of its file."""
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


def seen_from_here(path: str | Path) -> str:
    """A path from the working folder, where it lies below that; else as it is."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def local_resources(sweep: Sweep) -> Resources:
    """What each trial gets when the sweep runs on this machine alone."""
    return resources_of(sweep, [Node(*this_machine())])


def resources_of(sweep: Sweep, nodes: Sequence[Node]) -> Resources:
    """What each worker of a trial gets of what ``nodes`` have.

    Raises:
        InputError: not even one trial fits.
    """
    return share_out(
        nodes,
        n_workers=sweep.n_workers,
        cpus_per_trial=sweep.cpus_per_trial,
        gpus_per_trial=sweep.gpus_per_trial,
        concurrency=sweep.concurrency,
    )


def data_key(values: Mapping[str, Any], row: TaskRow) -> str:
    """The settings that decide what the data of a configuration is, as text."""
    return json.dumps([values[name] for name in row.config_type.DATA_FIELDS])


def describe(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain values, for a person or a program to read."""
    values = asdict(replace(sweep, space=None))  # type: ignore[arg-type]
    return {
        **{
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        },
        "space": sweep.space.to_json(),
    }
