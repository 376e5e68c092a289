"""What ``--searcher`` and ``--scheduler`` may name, a row each. Only the makers import Optuna."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A generation of the genetic algorithms. Optuna's 50 are meant for thousands of trials.
_POPULATION = 20
_REDUCTION_FACTOR = 3  # of three trials at a rung, one goes on (ASHA, arXiv:1810.05934, uses 4)


@dataclass(frozen=True)
class Searcher:
    """What proposes points."""

    summary: str
    make: Callable[[int], Any]  # from a seed, Optuna's sampler
    several_objectives: bool = True
    weighs_cost: bool = False  # can propose by expected improvement per second
    # Kinds of settings that its model can not hold ("conditional", "choices"); how it samples those
    cannot_model: tuple[str, ...] = ()
    samples_them: str = ""


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


def _samplers() -> Any:
    from optuna import samplers

    return samplers


def _pruners() -> Any:
    from optuna import pruners

    return pruners


def _random(seed: int) -> Any:
    return _samplers().RandomSampler(seed=seed)


def _beside_tpe(name: str, seed: int) -> Any:
    """A sampler that leaves what its model can not hold to TPE, one setting at a time."""
    tpe = _samplers().TPESampler(seed=seed, multivariate=False, constant_liar=True)
    make = getattr(_samplers(), name)
    return make(seed=seed, independent_sampler=tpe, warn_independent_sampling=False)


def _gp(seed: int) -> Any:
    # Importing torch takes seconds. Optuna would do it at the first fit, while workers wait.
    importlib.import_module("torch")
    return _beside_tpe("GPSampler", seed)


def _qmc(seed: int) -> Any:
    # Scrambled: otherwise every seed would search the same points.
    return _samplers().QMCSampler(
        seed=seed,
        scramble=True,
        independent_sampler=_random(seed),
        warn_independent_sampling=False,
    )


_CONDITIONAL = ("conditional",)
SEARCHERS = {
    # curve_search.py proposes; the sampler only completes starting points.
    "curves": Searcher(
        "learns from whole learning curves of all trials",
        _random,
        several_objectives=False,
        weighs_cost=True,
    ),
    "tpe": Searcher(
        "compares the settings of good trials with those of all others",
        lambda seed: _samplers().TPESampler(seed=seed, multivariate=True, group=True),
    ),
    "gp": Searcher(
        "a Gaussian process over the values at the end",
        _gp,
        cannot_model=_CONDITIONAL,
        samples_them="by TPE",
    ),
    "cmaes": Searcher(
        "evolves a normal distribution over numbers",
        lambda seed: _beside_tpe("CmaEsSampler", seed),
        several_objectives=False,
        cannot_model=("conditional", "choices"),
        samples_them="by TPE",
    ),
    "nsga2": Searcher(
        "a genetic algorithm",
        lambda seed: _samplers().NSGAIISampler(seed=seed, population_size=_POPULATION),
        cannot_model=_CONDITIONAL,
        samples_them="at random",
    ),
    "nsga3": Searcher(
        "a genetic algorithm for three objectives or more",
        lambda seed: _samplers().NSGAIIISampler(seed=seed, population_size=_POPULATION),
        cannot_model=_CONDITIONAL,
        samples_them="at random",
    ),
    "qmc": Searcher(
        "random points, evenly spread", _qmc, cannot_model=_CONDITIONAL, samples_them="at random"
    ),
    "random": Searcher("random points", _random),
    # Its points are all queued, so the sampler is never asked.
    "grid": Searcher("all combinations of a few values of each setting", _random),
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
