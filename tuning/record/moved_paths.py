"""A sweep's folder that was moved, alone or with all that is around it: which paths moved along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Moved = Mapping[str, str]  # path as it was -> as it is now


def find_moved(values: Mapping[str, Any], old_folder: Path, new_folder: Path) -> dict[str, str]:
    """The absolute paths among ``values`` that are gone, but are found where the sweep is now.

    With ``/a/work/sweeps/s`` now in ``/b/work/sweeps/s``, ``/a/work/data`` is looked for as
    ``/b/work/data``: what the two folders' paths end in alike has moved as a whole.
    """
    old_root, new_root = old_folder, new_folder
    while old_root.name == new_root.name and old_root.name:
        old_root, new_root = old_root.parent, new_root.parent
    moved = {}
    for value in values.values():
        if not isinstance(value, str) or not Path(value).is_absolute() or Path(value).exists():
            continue
        for old, new in ((old_folder, new_folder), (old_root, new_root)):
            if Path(value).is_relative_to(old):
                candidate = new / Path(value).relative_to(old)
                if candidate.exists():
                    moved[value] = str(candidate)
                    break
    return moved


def relocate(values: Mapping[str, Any], moved: Moved) -> dict[str, Any]:
    """``values`` with the paths that have moved as they are now."""
    if not moved:
        return dict(values)
    return {n: moved.get(v, v) if isinstance(v, str) else v for n, v in values.items()}
