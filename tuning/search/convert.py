"""Domains as Optuna's distributions: the only place that knows whose bounds are inclusive."""

from __future__ import annotations

from typing import Any

import optuna.distributions as optunas

from search_spaces.domains import Domain, Float, Int


def distribution(domain: Domain) -> optunas.BaseDistribution:
    """A domain as Optuna has it; its bounds are inclusive too."""
    if isinstance(domain, Float):
        return optunas.FloatDistribution(domain.low, domain.high, domain.log, domain.step)
    if isinstance(domain, Int):
        return optunas.IntDistribution(domain.low, domain.high, domain.log, domain.step or 1)
    return optunas.CategoricalDistribution(domain.options)


def suggest(trial: Any, name: str, domain: Domain) -> Any:
    """Let an Optuna trial choose a value of ``domain``."""
    if isinstance(domain, Float):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, Int):
        return trial.suggest_int(
            name, domain.low, domain.high, log=domain.log, step=domain.step or 1
        )
    return trial.suggest_categorical(name, domain.options)
