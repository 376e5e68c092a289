"""Search spaces by name or by file, and the training function that belongs to one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import search_spaces
from search_spaces.domains import SearchSpace, SpaceError
from trainables.errors import InputError, unknown
from trainables.task import EpochReport, TrainingRun

Train = Callable[[Mapping[str, Any], TrainingRun], Iterator[EpochReport]]


@dataclass(frozen=True)
class LoadedSpace:
    """A search space, and the user's file that it and its ``train`` come from, if any."""

    space: SearchSpace
    train_file: Path | None = None  # set where the file defines ``train``
    # As the user's file says: what may change in the middle of a training; None: it does not say
    mutable: tuple[str, ...] | None = None


def space_names() -> list[str]:
    """The built-in spaces: the modules of ``search_spaces`` but the one that defines domains."""
    folder = Path(search_spaces.__path__[0])
    return sorted(path.stem for path in folder.glob("[a-z]*.py") if path.stem != "domains")


def load_space(name_or_path: str) -> LoadedSpace:
    """The built-in space of that name, or the one in that Python file.

    Raises:
        InputError: there is no such space or file, or it does not define a valid SPACE.
    """
    if name_or_path in space_names():
        module = importlib.import_module(f"search_spaces.{name_or_path}")
        return LoadedSpace(module.SPACE)
    path = Path(name_or_path)
    if path.suffix != ".py":
        raise InputError(
            unknown("search space", name_or_path, space_names())
            + "; or a path to a file that ends in .py"
        )
    if not path.is_file():
        raise InputError(f"search space file {name_or_path!r}: there is no such file")
    module = import_file(path)
    space = getattr(module, "SPACE", None)
    if not isinstance(space, SearchSpace):
        found = "it is missing" if space is None else f"it is a {type(space).__name__}"
        raise InputError(
            f"search space file {name_or_path!r}: must define SPACE, "
            f"a search_spaces.domains.SearchSpace; {found}"
        )
    defines_train = callable(getattr(module, "train", None))
    if space.task is None and not defines_train:
        raise InputError(
            f"search space file {name_or_path!r}: SPACE names no task, so the file must define "
            "train(config, run), a generator of epoch reports"
        )
    if space.task is not None and defines_train:
        raise InputError(
            f"search space file {name_or_path!r}: SPACE names the task {space.task!r} "
            "and the file defines train; only one of them can be used"
        )
    if not defines_train:
        return LoadedSpace(space)
    return LoadedSpace(space, path.resolve(), _mutable(name_or_path, module, space))


def _mutable(file: str, module: ModuleType, space: SearchSpace) -> tuple[str, ...] | None:
    """The MUTABLE of a user's training file, if it has one."""
    names = getattr(module, "MUTABLE", None)
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Collection):
        raise InputError(
            f"search space file {file!r}: MUTABLE = {names!r} must be a list of settings that may "
            "change in the middle of a training"
        )
    for name in names:
        if name not in space.domains:
            raise InputError(
                f"search space file {file!r}: MUTABLE: "
                + unknown("domain", name, list(space.domains))
            )
    return tuple(names)


def import_file(path: Path, what: str = "search space file") -> ModuleType:
    """Import a Python file under a name of its own; ``what`` it is called in messages.

    Raises:
        InputError: the file raises; the message gives the line.
    """
    name = f"thaw_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for the modules beside it; those of the same name go before
    try:
        spec.loader.exec_module(module)
    except SpaceError as error:
        raise InputError(f"{what} {str(path)!r}: {error}") from None
    except SyntaxError as error:
        raise InputError(f"{what} {str(path)!r}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == spec.origin
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{what} {str(path)!r}{where}: {type(error).__name__}: {error}") from error
    return module


def training_function(task: str | None, train_file: str | None) -> Train:
    """The training function of a built-in task, or the ``train`` of a user's file."""
    if train_file is not None:
        path = Path(train_file)
        return _train_of(path, path.stat().st_mtime_ns)
    assert task is not None
    from trainables.tasks import task_row, train_task

    task_row(task).load()  # imports what it needs
    name = task
    return lambda values, run: train_task(name, values, run)


@functools.lru_cache(maxsize=1)  # the trials of a process share the file as they share all modules
def _train_of(path: Path, written: int) -> Train:
    train: Train = import_file(path).train
    return train
