"""The point that a search begins with: the task's defaults, so that no sweep ends below them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from search_spaces.domains import Choice, Domain, SearchSpace
from trainables.config import TrainingConfig
from tuning.record.sweep import Sweep

_N_SAMPLES_CHECKED = 32  # beside all corners of the space


def with_defaults_first(space: SearchSpace, config_type: type[TrainingConfig]) -> SearchSpace:
    """The space with a first starting point that says all: what it leaves out is the default.

    Where the space has no starting points, that is the task's whole default configuration.
    """
    first = default_point(space, config_type)
    rest = [point for point in space.starting_points[1:] if dict(point) != first]
    return replace(space, starting_points=[first, *rest])


def default_point(space: SearchSpace, config_type: type[TrainingConfig] | None) -> dict[str, Any]:
    """One value for each active domain: of the first starting point, else the task's default.

    A default outside of its domain gives the nearest value in it. Where there is no default, the
    middle of the domain is taken.
    """
    fields = {} if config_type is None else config_type.model_fields
    defaults = {name: field.default for name, field in fields.items() if not field.is_required()}
    nearest = {name: _nearest(each, defaults.get(name)) for name, each in space.domains.items()}
    given = space.starting_points[0] if space.starting_points else {}
    return space.complete({**nearest, **given}, random.Random(0))


def _nearest(domain: Domain, value: Any) -> Any:
    """``value`` if the domain has it, else the nearest of a fine grid, else its middle."""
    if domain.contains(value):
        return value
    if isinstance(domain, Choice):
        numbers = [option for option in domain.options if _is_number(option)]
        if not (_is_number(value) and numbers):
            return domain.options[0]
        return min(numbers, key=lambda option: abs(float(option) - value))  # type: ignore[arg-type]
    if not _is_number(value):
        return domain.grid(1)[0]
    return min(domain.grid(1001), key=lambda candidate: abs(candidate - value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def configurations(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """The starting points, the corners and a sample of the space, as full configurations."""
    generator = random.Random(sweep.seed)
    points = [sweep.space.complete(point, generator) for point in sweep.space.starting_points]
    points += sweep.space.corners()
    points += (sweep.space.sample(generator) for _ in range(_N_SAMPLES_CHECKED))
    for point in points:
        yield sweep.configuration(point)
