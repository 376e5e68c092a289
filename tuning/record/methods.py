"""What ``--searcher`` and ``--scheduler`` may name, a row each. Only the makers import Optuna."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# A generation of the genetic algorithms. Optuna's 50 are meant for thousands of trials.
_POPULATION = 20
_REDUCTION_FACTOR = 3  # of three trials at a rung, one goes on (ASHA, arXiv:1810.05934, uses 4)


@dataclass(frozen=True)
class Searcher:
    """What proposes points."""

    summary: str
    sampler: str = "RandomSampler"  # Optuna's class
    arguments: Mapping[str, Any] = field(default_factory=dict)  # for it, besides the seed
    # Samples, one by one, the settings that its model can not hold: Optuna's class and arguments
    independent: tuple[str, Mapping[str, Any]] | None = None
    needs: str | None = None  # a module that takes seconds to import, which Optuna does too late
    several_objectives: bool = True
    weighs_cost: bool = False  # can propose by expected improvement per second
    # Kinds of settings that its model can not hold ("conditional", "choices"); how it samples those
    cannot_model: tuple[str, ...] = ()
    samples_them: str = ""

    def make(self, seed: int) -> Any:
        """Optuna's sampler."""
        from optuna import samplers

        arguments = dict(self.arguments)
        if self.independent is not None:
            name, its_own = self.independent
            arguments["independent_sampler"] = getattr(samplers, name)(seed=seed, **its_own)
            arguments["warn_independent_sampling"] = False
        if self.needs is not None:
            importlib.import_module(self.needs)
        return getattr(samplers, self.sampler)(seed=seed, **arguments)


@dataclass(frozen=True)
class Scheduler:
    """What decides which trial goes on."""

    summary: str
    make: Callable[[int], Any]  # from the most epochs that a trial may have, Optuna's pruner
    freezes: bool = False  # freeze_thaw.py pauses trials; the pruner stops none


def first_rung(epochs: int) -> int:
    """The epoch before which nothing is stopped for good: a third of all, rounded up.

    Warm-up and thawing make good configurations start slowly.
    """
    return -(-epochs // 3)


def _pruners() -> Any:
    from optuna import pruners

    return pruners


_BY_TPE = ("TPESampler", {"multivariate": False, "constant_liar": True})
_CONDITIONAL = ("conditional",)
SEARCHERS = {
    # curve_search.py proposes; the sampler only completes starting points.
    "curves": Searcher(
        "learns from whole learning curves of all trials",
        several_objectives=False,
        weighs_cost=True,
    ),
    "tpe": Searcher(
        "compares the settings of good trials with those of all others",
        "TPESampler",
        {"multivariate": True, "group": True},
    ),
    "gp": Searcher(
        "a Gaussian process over the values at the end",
        "GPSampler",
        independent=_BY_TPE,
        needs="torch",  # else Optuna imports it at the first fit, while workers wait
        cannot_model=_CONDITIONAL,
        samples_them="by TPE",
    ),
    "cmaes": Searcher(
        "evolves a normal distribution over numbers",
        "CmaEsSampler",
        independent=_BY_TPE,
        several_objectives=False,
        cannot_model=("conditional", "choices"),
        samples_them="by TPE",
    ),
    "nsga2": Searcher(
        "a genetic algorithm",
        "NSGAIISampler",
        {"population_size": _POPULATION},
        cannot_model=_CONDITIONAL,
        samples_them="at random",
    ),
    "nsga3": Searcher(
        "a genetic algorithm for three objectives or more",
        "NSGAIIISampler",
        {"population_size": _POPULATION},
        cannot_model=_CONDITIONAL,
        samples_them="at random",
    ),
    "qmc": Searcher(
        "random points, evenly spread",
        "QMCSampler",
        {"scramble": True},  # otherwise every seed would search the same points
        independent=("RandomSampler", {}),
        cannot_model=_CONDITIONAL,
        samples_them="at random",
    ),
    "random": Searcher("random points"),
    # Its points are all queued, so the sampler is never asked.
    "grid": Searcher("all combinations of a few values of each setting"),
}

SCHEDULERS = {
    "freeze-thaw": Scheduler(
        "pauses poor trials and lets the promising go on",
        lambda epochs: _pruners().NopPruner(),
        freezes=True,
    ),
    "asha": Scheduler(
        "stops two of three trials at each rung for good",
        lambda epochs: _pruners().SuccessiveHalvingPruner(first_rung(epochs), _REDUCTION_FACTOR),
    ),
    "hyperband": Scheduler(
        "like asha, with rungs that begin earlier for some trials",
        lambda epochs: _pruners().HyperbandPruner(1, epochs, _REDUCTION_FACTOR),
    ),
    "median": Scheduler(
        "stops trials that are worse than the median for good",
        lambda epochs: _pruners().MedianPruner(n_warmup_steps=first_rung(epochs)),
    ),
    "none": Scheduler("stops nothing", lambda epochs: _pruners().NopPruner()),
}

COST_AWARE_NAMES = tuple(name for name, row in SEARCHERS.items() if row.weighs_cost)
OF_ONE_OBJECTIVE = tuple(name for name, row in SEARCHERS.items() if not row.several_objectives)
