"""The point that a search begins with: the task's defaults, so that no sweep ends below them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
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
    given = space.starting_points[0] if space.starting_points else {}
    first = default_point(space, config_type, given)
    rest = [point for point in space.starting_points[1:] if dict(point) != first]
    return replace(space, starting_points=[first, *rest])


def default_point(
    space: SearchSpace, config_type: type[TrainingConfig] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """One value for each active domain: as given, else what is nearest to the task's default.

    The middle of the domain where there is no default.
    """
    defaults = {
        name: _nearest(domain, _default(name, config_type))
        for name, domain in space.domains.items()
    }
    return space.complete({**defaults, **given}, random.Random(0))


def _default(name: str, config_type: type[TrainingConfig] | None) -> Any:
    field = None if config_type is None else config_type.model_fields.get(name)
    return None if field is None or field.is_required() else field.default


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
