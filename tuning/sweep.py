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
from trainables.errors import InputError, unknown
from trainables.files import write_whole
from trainables.metrics import Direction
from trainables.task import Strategy
from trainables.tasks import TaskRow, task_row
from tuning.resources import Gpus, Node, Resources, share_out, this_machine
from tuning.shipping import CODE_FILE, pack_code
from tuning.storage.mirror import Say, fetch, say_on_stderr, working_copy
from tuning.storage.moving import Moved, find_moved, relocate
from tuning.storage.remote import RemoteError, RemoteFolder, check_uri, is_uri, join_uri, split_uri

SWEEP_FILE = "sweep.json"

_MAX_EPOCHS_WITHOUT_FIELD = 100  # for a user's own training that has no `epochs` setting


def default_cache_folder() -> Path:
    """$THAW_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("THAW_CACHE") or f"{base}/thaw").expanduser()


@dataclass(frozen=True)
class Sweep:
    """A sweep, resolved and checked: all that is needed to run it, or to run it again."""

    name: str
    folder: Path  # on this machine; of a sweep whose home is a URI, the working copy
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
    # Searched settings that may change in the middle of a training: see population.py
    mutable: Sequence[str] = ()
    # what decides the data, as ``data_key`` has it -> its fingerprint
    data_fingerprints: Mapping[str, str] = field(default_factory=dict)
    train_source: Path | None = None  # where the user keeps it; ``train_file`` may be our copy
    began_in: str | None = None  # the folder or URI that the sweep had at first
    moved: Moved = field(default_factory=dict)  # since the last sitting; not saved
    other_metrics: Mapping[str, Direction] = field(default_factory=dict)  # objectives but the first
    storage: str | None = None
    warm_start: Mapping[str, Any] = field(default_factory=dict)  # as warm_start.py has it
    n_workers: int = 1  # processes that train one trial together
    strategy: Strategy = "ddp"  # how they share the model
    home: str | None = None  # the URI where the sweep is kept; None: its folder. Not saved

    @property
    def place(self) -> str:
        """Where the sweep is kept, to be shown."""
        return self.home or str(self.folder)

    @property
    def reference(self) -> str:
        """What to call it on a command line that is typed here."""
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
            # To see what has moved; it is wherever it is found.
            "folder": str(self.folder) if self.home is None else None,
            "home": None,
            "train_file": None if self.train_file is None else self.train_file.name,
            "train_source": None if self.train_source is None else str(self.train_source),
            "began_in": self.began_in or self.place,
            "cache_folder": None,
            "moved": {},
            "searcher": _searcher_in(None, self.searcher),
            "space": self.space.to_json(),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.train_file is not None:
            _copy(self.train_file, self.folder / self.train_file.name)
            (self.folder / CODE_FILE).write_bytes(pack_code(self.train_file))
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


def place_of(name: str, sweeps_folder: Path | str, cache_folder: Path) -> tuple[Path, str | None]:
    """The folder of a sweep on this machine, and its home, if that is a URI.

    Raises:
        InputError: the URI is none that we take.
    """
    if is_uri(name) or is_uri(sweeps_folder):
        home = name if is_uri(name) else join_uri(str(sweeps_folder), name)
        check_uri(home, "sweep" if is_uri(name) else "--sweeps-folder")
        return working_copy(home, cache_folder).resolve(), home
    return (Path(sweeps_folder) / name).resolve(), None


def seen_from_here(path: str | Path) -> str:
    """A path from the working folder, where it lies below that; else as it is."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def open_sweep(name: str, sweeps_folder: Path | str, say: Say = say_on_stderr) -> Sweep:
    """The sweep that was saved as ``name``, or in the folder or at the URI ``name``.

    Args:
        say: told if this machine had something of it that its home lacks.

    Raises:
        InputError: there is none, its description is damaged, or its home does not answer.
    """
    if (Path(name) / SWEEP_FILE).is_file():
        folder, home = Path(name).resolve(), None
    else:
        folder, home = place_of(name, sweeps_folder, default_cache_folder())
    try:
        if home is not None:
            fetch(home, folder, say)
        path = folder / SWEEP_FILE
        if not path.is_file():
            raise _unknown_sweep(name, sweeps_folder, home)
        return _from_json(json.loads(path.read_text()), folder, home)
    except RemoteError as error:
        raise InputError(f"sweep {name!r}: {error}") from error
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise InputError(f"sweep description {str(path)!r} is damaged: {reason}") from error


def _unknown_sweep(name: str, sweeps_folder: Path | str, home: str | None) -> InputError:
    """What to say where there is no such sweep."""
    if home is None:
        found = sorted(Path(sweeps_folder).glob(f"*/{SWEEP_FILE}"))
        names, where = [file.parent.name for file in found], str(Path(sweeps_folder).resolve())
    else:
        where, name = split_uri(home)
        names = RemoteFolder(where).folders()
    hint = f"{unknown('sweep', name, names)}" if names else f"unknown sweep {name!r}"
    return InputError(f"{hint}; looked in {where!r}")


def _from_json(values: Mapping[str, Any], folder: Path, home: str | None) -> Sweep:
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
            "home": home,
            "train_file": None if train_file is None else folder / train_file,
            "train_source": source,
            "began_in": began_in,
            "cache_folder": default_cache_folder(),
            "searcher": _searcher_in(folder, values["searcher"]),
            "space": replace(space, fixed=relocate(space.fixed, moved)),
            "tracking_uri": values["tracking_uri"].replace(
                tracking_file, moved.get(tracking_file, tracking_file)
            ),
            "moved": moved,
        }
    )


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
