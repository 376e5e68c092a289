"""What is known of a task without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.config import TrainingConfig
from trainables.metrics import Direction
from trainables.prepared import PreparedData
from trainables.task import Task


@dataclass(frozen=True)
class TaskRow:
    """A row of the table of tasks: cheap to import, with ``load`` for the rest."""

    name: str
    summary: str
    config_type: type[TrainingConfig]
    path_fields: Mapping[str, Collection[str]]  # field that may be a path -> names that are none
    check: Callable[[Any], None]  # milliseconds, no torch; raises InputError
    fetch: Callable[[Any], None]  # makes remote weights local; raises InputError
    prepare: Callable[[Any, Path], PreparedData]
    load: Callable[[], Task]

    @property
    def metrics(self) -> dict[str, Direction]:
        """Every metric, and which way is better; trials are compared by the first."""
        return self.config_type.metrics()
