"""Domains in other terms: Optuna's distributions, perturbed values.

The only place that knows whose bounds are inclusive.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Any

import optuna.distributions as optunas

from search_spaces.domains import Choice, Domain, Float, Int, SearchSpace

# Of population-based training (arXiv:1711.09846, A.1): a setting is drawn anew, or else multiplied.
_SHARE_DRAWN_ANEW = 0.25
_FACTORS = (0.8, 1.2)


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


def perturbed_point(
    space: SearchSpace,
    point: Mapping[str, Any],
    mutable: Collection[str],
    generator: random.Random,
) -> dict[str, Any]:
    """``point`` with its ``mutable`` settings perturbed.

    What becomes active by that is sampled, what becomes inactive is left out.
    """
    found: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if not space.is_active(name, found):
            continue
        if name not in point:
            found[name] = domain.sample(generator)
        elif name in mutable:
            found[name] = perturbed(domain, point[name], generator)
        else:
            found[name] = point[name]
    return found


def perturbed(domain: Domain, value: Any, generator: random.Random) -> Any:
    """Another value of ``domain``, most often near ``value``; the same where a bound holds it.

    A number is multiplied, at least by a step; of options that are numbers the next one is taken.
    Zero, which no factor changes, and options without an order are drawn anew.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    draw, factor = generator.random(), generator.choice(_FACTORS)
    if draw < _SHARE_DRAWN_ANEW or (isinstance(domain, (Float, Int)) and value == 0):
        return domain.sample(generator)
    if isinstance(domain, Choice):
        return _next_option(domain, value, up=factor > 1) if is_number else value
    if isinstance(domain, Float) and domain.step is None:
        return min(max(value * factor, domain.low), domain.high)
    return _stepped(domain, value, factor)


def _next_option(domain: Choice, value: float, *, up: bool) -> Any:
    """The next larger or smaller of the options that are numbers."""
    numbers = [
        option
        for option in domain.options
        if isinstance(option, (int, float)) and not isinstance(option, bool)
    ]
    beyond = [option for option in numbers if (option > value if up else option < value)]
    return (min(beyond) if up else max(beyond)) if beyond else value


def _stepped(domain: Float | Int, value: float, factor: float) -> float | int:
    """``value`` × ``factor`` on the domain's grid, at least a step away."""
    step = domain.step or 1
    n_steps = round(abs(value * (factor - 1)) / step) or 1
    last = round((domain.high - domain.low) / step)
    away = n_steps if value * factor > value else -n_steps
    place = min(max(round((value - domain.low) / step) + away, 0), last)
    return domain.after(place) if isinstance(domain, Float) else domain.low + int(step) * place
