"""The user's own Python files: what they import, and the training function in one."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from search_spaces.domains import SpaceError
from trainables.errors import InputError
from trainables.task import EpochReport, TrainingRun

Train = Callable[[Mapping[str, Any], TrainingRun], Iterator[EpochReport]]


def imported_modules(file: Path, folder: Path) -> Iterator[tuple[str, ...]]:
    """The names, in parts, of all that may be a module in a file's import statements.

    ``from a.b import c`` gives a, a.b and a.b.c. A relative import is told from ``folder`` on.
    Nothing of a file that can not be read or parsed: whoever imports it is told.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = file.relative_to(folder).parts[: -node.level] if node.level else ()
            module = (*above, *(node.module or "").split("."))
            modules = [(*module, alias.name) for alias in node.names]
        for parts in modules:
            parts = tuple(part for part in parts if part not in ("", "*"))
            yield from (parts[:n] for n in range(1, len(parts) + 1))


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
    from trainables.tasks.table import task_row, train_task

    task_row(task).load()  # imports what it needs
    return functools.partial(train_task, task)


@functools.lru_cache(maxsize=1)  # the trials of a process share the file as they share all modules
def _train_of(path: Path, written: int) -> Train:
    train: Train = import_file(path).train
    return train
