"""Thaw from Python: ``tuning.sweep``, ``resume``, ``open_sweep`` and ``predict``.

They are imported when they are first used, so that ``import tuning`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.errors import InputError, RunFailed
    from tuning.scripting.interface import OpenSweep, open_sweep, predict, resume, sweep

__all__ = ["InputError", "OpenSweep", "RunFailed", "open_sweep", "predict", "resume", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tuning' has no attribute {name!r}")
    from tuning.scripting import interface

    return getattr(interface, name)
