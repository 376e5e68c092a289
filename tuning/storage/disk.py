"""How much room there is for checkpoints, asked before a sweep starts and while it runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainables.errors import InputError

# Record, MLflow's database and a small checkpoint. Assumed.
LEAST_FREE_BYTES = 64 * 2**20
_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below ``folder``; of one that vanishes meanwhile, what was seen."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def free_bytes(folder: Path) -> int:
    """What may be written to the disk of ``folder``, or of where it would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def show_bytes(n_bytes: int) -> str:
    """A size for a person: 2.5 GB."""
    for unit, size in _UNITS:
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} B"


def check_free_space(
    folder: Path, checkpoint_bytes: int, budget_bytes: int | None, say: Callable[[str], None]
) -> None:
    """Before a sweep starts: can its folder take even one checkpoint, and its whole budget?

    Args:
        folder: the sweep's.
        checkpoint_bytes: of its largest checkpoint so far; 0 if it has none.
        budget_bytes: ``--checkpoint-budget``, less what is used of it; None without one.

    Raises:
        InputError: there is no hope.
    """
    free = free_bytes(folder)
    needed = max(LEAST_FREE_BYTES, checkpoint_bytes)
    if free < needed:
        what = "its largest checkpoint so far" if checkpoint_bytes >= needed else "its record alone"
        raise InputError(
            f"sweep folder {str(folder)!r}: {show_bytes(free)} free on its disk, and at least "
            f"{show_bytes(needed)} needed for {what}; make room, or choose another --sweeps-folder"
        )
    if budget_bytes is not None and free < budget_bytes:
        say(
            f"--checkpoint-budget leaves {show_bytes(budget_bytes)} for checkpoints, and the disk "
            f"of {str(folder)!r} has {show_bytes(free)} free; fewer are kept if it runs short"
        )
