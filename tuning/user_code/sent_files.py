"""Files that were sent with a sweep, on every node of the cluster at the same place.

On the head they lie in the job's folder. Ray brings them to the other nodes, each process to a
place of its own; there a link stands where they lie on the head, so that paths mean the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

FILES_VARIABLE = "THAW_FILES"  # where they lie on the head


def runtime_env() -> dict[str, Any] | None:
    """What Ray must bring to the nodes for the sweep that this process drives; None for nothing.

    None is not the same as empty: only with it may trials run in processes that Ray has started
    ahead, with what they import.
    """
    files = os.environ.get(FILES_VARIABLE)
    if not files:
        return None
    return {
        "working_dir": f"{files}.zip",
        "env_vars": {FILES_VARIABLE: files},
        "worker_process_setup_hook": f"{__name__}.place_files",
    }


def place_files() -> None:
    """Let the files be found where they lie on the head; called in each new process of Ray's."""
    place, here = Path(os.environ[FILES_VARIABLE]), Path.cwd()
    if place.is_dir() and not place.is_symlink():
        return  # this is the head
    if place.is_symlink() and place.resolve() == here.resolve():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}-{os.getpid()}")
    with suppress(FileNotFoundError):
        partial.unlink()
    partial.symlink_to(here)
    os.replace(partial, place)
