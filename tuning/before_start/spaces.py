"""Search spaces by name or by file, and the training function that belongs to one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from search_spaces.domains import SearchSpace
from trainables.errors import InputError, unknown
from tuning.user_code.loading import import_file


@dataclass(frozen=True)
class LoadedSpace:
    """A search space, and the user's file that it and its ``train`` come from, if any."""

    space: SearchSpace
    train_file: Path | None = None  # set where the file defines ``train``


def space_names() -> list[str]:
    """The built-in spaces: the modules of ``search_spaces``."""
    return sorted(path.stem for path in Path(str(files("search_spaces"))).glob("[a-z]*.py"))


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
    return LoadedSpace(space, path.resolve())
