"""Domains in other libraries' terms. The only place that knows whose bounds are inclusive."""

from __future__ import annotations

from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search_spaces.domains import Choice, Domain, Float, Int


def to_optuna(domain: Domain) -> BaseDistribution:
    """The Optuna distribution over the same values; Optuna's bounds are inclusive, as ours are."""
    if isinstance(domain, Float):
        return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, Int):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step or 1)
    return CategoricalDistribution(domain.options)


def from_optuna(distribution: BaseDistribution) -> Domain:
    """The domain that ``to_optuna`` turned into ``distribution``, without its condition."""
    if isinstance(distribution, FloatDistribution):
        return Float(
            distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    if isinstance(distribution, IntDistribution):
        step = None if distribution.step == 1 else distribution.step
        return Int(distribution.low, distribution.high, log=distribution.log, step=step)
    assert isinstance(distribution, CategoricalDistribution)
    return Choice(*distribution.choices)


def suggest(trial: Any, name: str, domain: Domain) -> Any:
    """Let an Optuna trial choose a value of ``domain``."""
    if isinstance(domain, Float):
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)
    if isinstance(domain, Int):
        return trial.suggest_int(
            name, domain.low, domain.high, log=domain.log, step=domain.step or 1
        )
    return trial.suggest_categorical(name, domain.options)
