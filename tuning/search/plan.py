"""What a search has to know of its sweep."""

from __future__ import annotations

import random
from dataclasses import dataclass

from search_spaces.domains import SearchSpace
from trainables.metrics import Direction
from tuning.record.sweep import Sweep


@dataclass(frozen=True)
class SearchPlan:
    """A search, described."""

    space: SearchSpace
    searcher: str = "curves"  # a row of the table, or FILE.py:NAME
    scheduler: str = "freeze-thaw"  # a row of the table
    # One per objective. The first is the one that trials are stopped by.
    directions: tuple[Direction, ...] = ("max",)
    epochs: int = 1  # of a whole training
    seed: int = 0
    n_trials: int | None = None  # that there will be; None if only time limits them
    cost_aware: bool = False  # weigh the seconds that a trial takes
    n_known: int = 0  # trials of earlier sittings

    @classmethod
    def of(cls, sweep: Sweep, n_known: int) -> SearchPlan:
        """The plan of a sweep that has ``n_known`` trials already."""
        return cls(
            space=sweep.space,
            searcher=sweep.searcher,
            scheduler=sweep.scheduler,
            directions=tuple(sweep.objectives.values()),
            epochs=sweep.max_epochs(),
            seed=sweep.seed,
            n_trials=sweep.trials,
            cost_aware=sweep.cost_aware,
            n_known=n_known,
        )

    @property
    def sampling_seed(self) -> int:
        """Another one after each resume: the same one would propose the first points again."""
        if self.n_known == 0:
            return self.seed
        return random.Random(f"{self.seed}, {self.n_known}").randrange(2**32)
