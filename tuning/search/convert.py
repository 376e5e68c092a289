"""Domains as Optuna's distributions: the only place that knows whose bounds are inclusive."""

from __future__ import annotations

from typing import Any

import optuna.distributions as optunas

from search_spaces.domains import Choice, Domain, Float, Int, SearchSpace


def distribution(domain: Domain) -> optunas.BaseDistribution:
    """A domain as Optuna has it; its bounds are inclusive too."""
    if isinstance(domain, Float):
        return optunas.FloatDistribution(domain.low, domain.high, domain.log, domain.step)
    if isinstance(domain, Int):
        return optunas.IntDistribution(domain.low, domain.high, domain.log, domain.step or 1)
    return optunas.CategoricalDistribution(domain.options)


def suggest_point(trial: Any, space: SearchSpace) -> dict[str, Any]:
    """Let an Optuna trial choose a value of each active domain."""
    point: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if not space.is_active(name, point):
            continue
        if isinstance(domain, Choice):
            point[name] = trial.suggest_categorical(name, domain.options)
            continue
        step = domain.step or (1 if isinstance(domain, Int) else None)
        suggest = trial.suggest_int if isinstance(domain, Int) else trial.suggest_float
        point[name] = suggest(name, domain.low, domain.high, log=domain.log, step=step)
    return point
