"""The table of samplers, Optuna's and a user's own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, TPESampler

from search_spaces.domains import Choice, SearchSpace
from trainables.errors import InputError, unknown
from tuning.record.sweep import Sweep
from tuning.search.bounded_tpe import BoundedTPESampler
from tuning.search.convert import suggest
from tuning.search.cost import CostAwareTPESampler
from tuning.search.freeze_thaw import rungs
from tuning.user_code.loading import import_file

MakeSampler = Callable[[int], BaseSampler]  # from a seed

# Optuna's 50 are for thousands of trials; a sweep has tens or hundreds.
_POPULATION = 20


def _gp(seed: int) -> BaseSampler:
    # Optuna would import it when the model is first fitted, while workers wait: it takes seconds.
    importlib.import_module("torch")
    return optuna.samplers.GPSampler(
        seed=seed, independent_sampler=_independent(seed), warn_independent_sampling=False
    )


def _cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        seed=seed, independent_sampler=_independent(seed), warn_independent_sampling=False
    )


def _qmc(seed: int) -> BaseSampler:
    return optuna.samplers.QMCSampler(
        seed=seed,
        scramble=True,  # else each seed would search the same points
        independent_sampler=optuna.samplers.RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


def _independent(seed: int) -> BaseSampler:
    """For what a model can not hold: it learns too, one parameter at a time."""
    return TPESampler(seed=seed, multivariate=False, constant_liar=True)


def _optunas_tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, group=True)


# name -> sampler; a grid is enqueued, so its sampler is never asked
SEARCHERS: dict[str, MakeSampler] = {
    "curves": lambda seed: optuna.samplers.RandomSampler(seed=seed),  # see curve_search.py
    "tpe": lambda seed: BoundedTPESampler(seed=seed),
    "gp": _gp,
    "cmaes": _cmaes,
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed, population_size=_POPULATION),
    "qmc": _qmc,
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
# What takes its place where there are several objectives
_OF_SEVERAL: dict[str, MakeSampler] = {"tpe": _optunas_tpe}
# What takes its place where the search weighs what a trial costs; for one objective
COST_AWARE: dict[str, MakeSampler] = {
    "curves": SEARCHERS["curves"],  # which weighs it itself
    "tpe": lambda seed: CostAwareTPESampler(seed=seed),
}

# Those that know all from the trials told. The others also go by what they asked before: from a
# record they are led through the same questions again.
KNOW_FROM_TRIALS = ("curves", "tpe", "gp", "random", "grid")

# name -> what of a space it samples each by itself, and how
_BY_ITSELF: dict[str, tuple[tuple[str, ...], str]] = {
    "gp": (("conditional",), "by TPE"),
    "cmaes": (("conditional", "choices"), "by TPE"),
    "nsga2": (("conditional",), "at random"),
    "nsga3": (("conditional",), "at random"),
    "qmc": (("conditional",), "at random"),
}


def make_sampler(
    searcher: str, seed: int, n_objectives: int = 1, *, cost_aware: bool = False
) -> BaseSampler:
    """The sampler of a row of the table, or of a user's file.

    Raises:
        InputError: the user's file does not give one.
    """
    if ":" in searcher:
        return own_sampler(searcher)(seed)
    if cost_aware:
        return COST_AWARE[searcher](seed)
    table: Mapping[str, MakeSampler] = SEARCHERS if n_objectives == 1 else SEARCHERS | _OF_SEVERAL
    return table[searcher](seed)


def search_notes(sweep: Sweep) -> list[str]:
    """What a person should know of how a sweep searches, a line each."""
    notes = [sampled_by_itself(sweep.searcher, sweep.space)]
    notes.append(sweep.warm_start.get("note"))
    notes.append(_pauses(sweep))
    stops_none = sweep.scheduler == "freeze-thaw" and not _rungs(sweep)[:-1]
    if sweep.other_metrics and sweep.scheduler != "none" and not stops_none:
        stopped_by = f"--scheduler {sweep.scheduler} stops trials by {sweep.metric} alone"
        notes.append(f"{stopped_by}; --scheduler none lets all finish")
    return [note for note in notes if note]


def _rungs(sweep: Sweep) -> list[int]:
    return rungs(sweep.max_epochs(), sweep.trials)


def _pauses(sweep: Sweep) -> str | None:
    """When trials are frozen, which follows from how many there are and how long they are."""
    if sweep.scheduler != "freeze-thaw":
        return None
    *pauses, epochs = _rungs(sweep)
    if not pauses:
        return f"all {sweep.trials} trials train all {epochs} epochs: they are too few to stop any"
    after = ", ".join(map(str, pauses))
    return f"trials pause after epoch {after}; of three, the most promising goes on (freeze-thaw)"


def sampled_by_itself(searcher: str, space: SearchSpace) -> str | None:
    """One line on the settings that a searcher's model does not hold, if there are some."""
    kinds, how = _BY_ITSELF.get(searcher, ((), ""))
    names = [
        name
        for name, domain in space.domains.items()
        if ("conditional" in kinds and domain.when)
        or ("choices" in kinds and isinstance(domain, Choice))
    ]
    if not names:
        return None
    return (
        f"--searcher {searcher} samples {' and '.join(kinds)} settings each by itself, {how}: "
        + ", ".join(names)
    )


def own_sampler(spec: str) -> MakeSampler:
    """The sampler that ``FILE.py:NAME`` stands for: a class, or a function of a seed.

    Raises:
        InputError: there is no such file or name, or it does not give an Optuna sampler.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"--searcher {spec!r}: there is no Python file {file!r}")
    module = import_file(path, what="sampler file")
    found: Any = getattr(module, name, None)
    if not callable(found):
        made_here = [
            each
            for each, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise InputError(f"--searcher {spec!r}: {unknown('sampler', name, made_here)}")

    def make(seed: int) -> BaseSampler:
        try:
            takes_seed = "seed" in inspect.signature(found).parameters
            sampler = found(seed=seed) if takes_seed else found()
        except Exception as error:
            raise InputError(
                f"--searcher {spec!r}: {name} raised {type(error).__name__}: {error}; it must be "
                "a sampler class, or a function of `seed` that makes a sampler"
            ) from error
        if not isinstance(sampler, BaseSampler):
            raise InputError(
                f"--searcher {spec!r}: {name} made a {type(sampler).__name__}; "
                "it must be an optuna.samplers.BaseSampler"
            )
        return sampler

    make(0)
    return make


def check_own_sampler(spec: str, space: SearchSpace, n_objectives: int) -> None:
    """See that a user's sampler is one, and proposes a point of the space.

    Raises:
        InputError: it does not.
    """
    sampler = own_sampler(spec)(0)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
    try:
        trial = study.ask()
        point: dict[str, Any] = {}
        for name, domain in space.domains.items():
            if space.is_active(name, point):
                point[name] = suggest(trial, name, domain)
    except Exception as error:
        raise InputError(
            f"--searcher {spec!r}: it can not propose a point of search space {space.name} for "
            f"{n_objectives} objective{'s' * (n_objectives > 1)}: {type(error).__name__}: {error}"
        ) from error
