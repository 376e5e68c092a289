"""Makes the sampler that a sweep names, and says what a person should know of its search."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from search_spaces.domains import Choice, SearchSpace
from trainables.errors import InputError, unknown
from tuning.record.methods import SEARCHERS
from tuning.record.sweep import Sweep
from tuning.search.freeze_thaw import rungs
from tuning.search.optuna_trials import quiet_optuna, suggest_point
from tuning.user_code.loading import import_file


def make_sampler(searcher: str, seed: int) -> BaseSampler:
    """The sampler of a row of the table, or of a user's file.

    Args:
        searcher: a row's name, or ``FILE.py:NAME`` of a class or a function.

    Raises:
        InputError: there is no such file or name, or it does not give an Optuna sampler.
    """
    if ":" not in searcher:
        return SEARCHERS[searcher].make(seed)
    file, _, name = searcher.rpartition(":")
    path = Path(file).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"--searcher {searcher!r}: there is no Python file {file!r}")
    module = import_file(path, what="sampler file")
    make: Any = getattr(module, name, None)
    if not callable(make):
        made_here = [
            each
            for each, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise InputError(f"--searcher {searcher!r}: {unknown('sampler', name, made_here)}")
    try:
        takes_seed = "seed" in inspect.signature(make).parameters
        sampler = make(seed=seed) if takes_seed else make()
    except Exception as error:
        raise InputError(
            f"--searcher {searcher!r}: {name} raised {type(error).__name__}: {error}; it must be "
            "a sampler class, or a function of `seed` that makes a sampler"
        ) from error
    if not isinstance(sampler, BaseSampler):
        raise InputError(
            f"--searcher {searcher!r}: {name} made a {type(sampler).__name__}; "
            "it must be an optuna.samplers.BaseSampler"
        )
    return sampler


def search_notes(sweep: Sweep) -> list[str]:
    """What a person should know of how a sweep searches, a line each."""
    notes = [sampled_by_itself(sweep.searcher, sweep.space), sweep.warm_start.get("note")]
    *pauses, epochs = rungs(sweep.max_epochs(), sweep.trials)
    stops = sweep.scheduler != "none"
    if sweep.scheduler == "freeze-thaw":
        stops = bool(pauses)
        after = f"trials pause after epoch {', '.join(map(str, pauses))}"
        none = f"all {sweep.trials} trials train all {epochs} epochs: they are too few to stop any"
        notes.append(
            f"{after}; of three, the most promising goes on (freeze-thaw)" if stops else none
        )
    if sweep.other_metrics and stops:
        notes.append(
            f"--scheduler {sweep.scheduler} stops trials by {sweep.metric} alone; "
            "--scheduler none lets all finish"
        )
    return [note for note in notes if note]


def sampled_by_itself(searcher: str, space: SearchSpace) -> str | None:
    """One line on the settings that a searcher's model can not hold, if there are some."""
    row = SEARCHERS.get(searcher)
    if row is None:
        return None
    names = [
        name
        for name, domain in space.domains.items()
        if ("conditional" in row.cannot_model and domain.when)
        or ("choices" in row.cannot_model and isinstance(domain, Choice))
    ]
    if not names:
        return None
    return (
        f"--searcher {searcher} samples {' and '.join(row.cannot_model)} settings each by itself, "
        f"{row.samples_them}: {', '.join(names)}"
    )


def check_own_sampler(spec: str, space: SearchSpace, n_objectives: int) -> None:
    """See that a user's sampler is one, and proposes a point of the space.

    Raises:
        InputError: it does not.
    """
    sampler = make_sampler(spec, 0)
    quiet_optuna()
    study = optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)
    try:
        suggest_point(study.ask(), space)
    except Exception as error:
        raise InputError(
            f"--searcher {spec!r}: it can not propose a point of search space {space.name} for "
            f"{n_objectives} objective{'s' * (n_objectives > 1)}: {type(error).__name__}: {error}"
        ) from error
