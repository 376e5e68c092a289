"""What trials are compared by: the metrics of a command line, and which way each is better."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.domains import SearchSpace
from trainables.errors import InputError, unknown
from trainables.metrics import METRIC_ALIASES, Direction
from trainables.tasks.row import TaskRow
from trainables.tasks.table import known_metrics


def read_objectives(
    given: Sequence[str | None], space: SearchSpace, row: TaskRow | None
) -> dict[str, Direction]:
    """Metric -> which way it is better, the first of them deciding; None is the space's own.

    Raises:
        InputError: a metric is unknown, given twice, or has no direction.
    """
    found: dict[str, Direction] = {}
    for each in given:
        name, mode = _metric(each, space, row)
        if name in found:
            raise InputError(f"--metric {each!r}: given twice")
        found[name] = mode
    return found


def _metric(given: str | None, space: SearchSpace, row: TaskRow | None) -> tuple[str, Direction]:
    directions = known_metrics() if row is None else row.metrics
    first = str(space.fixed.get("monitor", next(iter(directions))))
    name, colon, direction = (given or first).partition(":")
    if row is not None:  # a user's own training reports what it likes
        name = METRIC_ALIASES.get(name, name)
    if colon and direction not in ("max", "min"):
        raise InputError(f"--metric {given!r}: after the colon must be max or min")
    if row is not None and name not in directions:
        raise InputError(unknown("metric", name, directions))
    if not colon and name not in directions:
        raise InputError(f"--metric {name!r}: say which way is better: {name}:max or {name}:min")
    natural = directions.get(name)
    if row is not None and colon and direction != natural:
        raise InputError(f"--metric {given!r}: {name} is better at its {natural}imum")
    return name, "min" if (direction or natural) == "min" else "max"
