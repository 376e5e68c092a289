"""Who is told of what happens in a sweep."""

from __future__ import annotations

from typing import Protocol

from tuning.record.events import Event, SweepHistory
from tuning.record.sweep import Sweep


class View(Protocol):
    """Is told of everything that happens in a sweep."""

    def say(self, message: str) -> None: ...

    def begin(self, sweep: Sweep, history: SweepHistory, n_trials: int) -> None: ...

    def update(self, event: Event) -> None: ...

    def end(self) -> None: ...
