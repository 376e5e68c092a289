"""Learning curves that stand in for training: tables of real ones, or a function that makes them.

A table is one compressed NumPy file, ``NAME.npz``, without pickles:

    header             the bytes of a JSON document in UTF-8:
                         format          1
                         name            what the figures call it
                         space           the search space, as ``SearchSpace.to_json`` writes it
                         configurations  a list of points, each a value for every active domain
                         metric          what the values are, such as "val_accuracy"
                         direction       "max" or "min"
                         source          how the curves were made: data, sizes, versions
    values             float [n_configurations, n_seeds, n_epochs], the metric after each epoch; NaN
                       from the epoch in which a training diverged
    seconds_per_epoch  float [n_configurations] or [n_configurations, n_epochs]

A Python file can stand in for a table. It defines

    SPACE              a SearchSpace
    METRIC, DIRECTION  as above
    EPOCHS             of a full training
    BEST               the best value there is (or a bound on it)
    curve(point, seed) -> (the point as evaluated, n_epochs values, n_epochs seconds)

Points that are not in a table get the curve of the nearest configuration by Gower's distance
(doi:10.2307/2528823): numbers in the domain's own scale, from 0 to 1, the logarithm's where the
domain is logarithmic; 0 or 1 for options; 1 where a domain is active in one of the two only.
"""

from __future__ import annotations

import json
import math
import random
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from search_spaces.domains import Choice, Domain, SearchSpace

FORMAT = 1
Point = dict[str, Any]
# (point, seed) -> (the point as evaluated, values [n_epochs], seconds [n_epochs])
Curve = Callable[[Mapping[str, Any], int], tuple[Point, Sequence[float], Sequence[float]]]

_N_SAMPLES = 400  # random points from which a function's median is estimated
_FILE_NAMES = ("SPACE", "METRIC", "DIRECTION", "EPOCHS", "BEST", "curve")
_INACTIVE = math.nan


class TableError(ValueError):
    """A file is not a table of learning curves, or contradicts itself."""


@dataclass(frozen=True)
class Surrogate:
    """What a search can be replayed on."""

    name: str
    space: SearchSpace
    metric: str
    direction: Literal["max", "min"]
    n_epochs: int  # of a full training
    best: float  # value of which the regret is 0
    median: float  # value of which the regret is 1
    mean_epoch_seconds: float
    curve: Curve

    def regret(self, value: float) -> float:
        """Normalised regret of ``value``: 0 at ``best``, 1 at ``median``."""
        return (self.best - value) / (self.best - self.median)

    def is_better(self, value: float, other: float) -> bool:
        """Whether ``value`` is strictly better; NaN never is, and anything is better than NaN."""
        if math.isnan(value) or math.isnan(other):
            return math.isnan(other) and not math.isnan(value)
        return value > other if self.direction == "max" else value < other


@dataclass(frozen=True)
class CurveTable:
    """Learning curves of listed configurations; see above for what the fields hold."""

    name: str
    space: SearchSpace
    configurations: Sequence[Point]
    values: np.ndarray
    seconds_per_epoch: np.ndarray
    metric: str
    direction: Literal["max", "min"]
    source: str = ""

    def __post_init__(self) -> None:
        _check(self)

    def save(self, path: Path) -> None:
        """Write ``path``; float32 is what trainings report."""
        header = {
            "format": FORMAT,
            "name": self.name,
            "space": self.space.to_json(),
            "configurations": list(self.configurations),
            "metric": self.metric,
            "direction": self.direction,
            "source": self.source,
        }
        np.savez_compressed(
            path,
            header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
            values=self.values.astype(np.float32),
            seconds_per_epoch=self.seconds_per_epoch.astype(np.float32),
        )

    def surrogate(self) -> Surrogate:
        """Its curves for any point, by the nearest configuration; seeds repeat after n_seeds.

        ``best`` is the best single value in the table, of any epoch and seed, so that no regret is
        negative; ``median`` is the median configuration's last value, mean over seeds.
        """
        n_configurations, n_seeds, n_epochs = self.values.shape
        seconds = self.seconds_per_epoch.reshape(n_configurations, -1)
        seconds = np.broadcast_to(seconds, (n_configurations, n_epochs))
        encoded = np.stack([_encode(self.space, point) for point in self.configurations])
        numeric = _numeric(self.space)

        def curve(point: Mapping[str, Any], seed: int) -> tuple[Point, Any, Any]:
            row = int(np.argmin(_distances(encoded, _encode(self.space, point), numeric)))
            values = self.values[row, seed % n_seeds]
            return dict(self.configurations[row]), values, seconds[row]

        last = self.values[:, :, -1].mean(axis=1)
        worst = -math.inf if self.direction == "max" else math.inf
        pick = np.nanmax if self.direction == "max" else np.nanmin
        return Surrogate(
            name=self.name,
            space=self.space,
            metric=self.metric,
            direction=self.direction,
            n_epochs=n_epochs,
            best=float(pick(self.values)),
            median=float(np.median(np.where(np.isnan(last), worst, last))),
            mean_epoch_seconds=float(seconds.mean()),
            curve=curve,
        )


def load_table(path: Path) -> CurveTable:
    """Read what ``CurveTable.save`` wrote.

    Raises:
        TableError: the file is not a table.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes().decode())
            values, seconds = arrays["values"], arrays["seconds_per_epoch"]
    except (OSError, KeyError, ValueError) as error:
        raise TableError(f"table {path}: can not be read: {error}") from error
    if header.pop("format", None) != FORMAT:
        raise TableError(f"table {path}: is not of format {FORMAT}")
    header["space"] = SearchSpace.from_json(header["space"])
    return CurveTable(**header, values=values, seconds_per_epoch=seconds)


def load_surrogate(path: Path) -> Surrogate:
    """A table (.npz) or a Python file (.py).

    Raises:
        TableError: the file is neither, or lacks something.
    """
    if path.suffix == ".npz":
        return load_table(path).surrogate()
    if path.suffix != ".py":
        raise TableError(f"table {path}: ends in {path.suffix!r}; valid: .npz, .py")
    if not path.is_file():
        raise TableError(f"table {path}: there is no such file")
    names = runpy.run_path(str(path))
    if missing := [name for name in _FILE_NAMES if name not in names]:
        raise TableError(
            f"table {path}: does not define {missing[0]}; needed: {', '.join(_FILE_NAMES)}"
        )
    return _of_function(path.stem, *(names[name] for name in _FILE_NAMES))


def _of_function(
    name: str,
    space: SearchSpace,
    metric: str,
    direction: Literal["max", "min"],
    n_epochs: int,
    best: float,
    curve: Curve,
) -> Surrogate:
    generator = random.Random(0)
    curves = [curve(space.sample(generator), seed) for seed in range(_N_SAMPLES)]
    return Surrogate(
        name=name,
        space=space,
        metric=metric,
        direction=direction,
        n_epochs=n_epochs,
        best=best,
        median=float(np.nanmedian([values[-1] for _, values, _ in curves])),
        mean_epoch_seconds=float(np.mean([seconds for _, _, seconds in curves])),
        curve=curve,
    )


def _check(table: CurveTable) -> None:
    label = f"table {table.name}"
    n_configurations = len(table.configurations)
    if table.direction not in ("max", "min"):
        raise TableError(f"{label}: direction = {table.direction!r}; valid: max, min")
    if table.values.ndim != 3 or len(table.values) != n_configurations or not table.values.size:
        raise TableError(
            f"{label}: values have shape {table.values.shape}; valid: "
            f"({n_configurations} configurations, seeds, epochs)"
        )
    n_epochs = table.values.shape[2]
    if table.seconds_per_epoch.shape not in ((n_configurations,), (n_configurations, n_epochs)):
        raise TableError(
            f"{label}: seconds_per_epoch have shape {table.seconds_per_epoch.shape}; valid: "
            f"({n_configurations},) or ({n_configurations}, {n_epochs})"
        )
    for number, point in enumerate(table.configurations):
        chosen: Point = {}
        for name, domain in table.space.domains.items():
            if table.space.is_active(name, chosen):
                if name not in point or not domain.contains(point[name]):
                    raise TableError(
                        f"{label}: configuration {number}: {name} = {point.get(name)!r}; "
                        f"valid: {domain.describe()}"
                    )
                chosen[name] = point[name]
        if extra := sorted(set(point) - set(chosen)):
            raise TableError(f"{label}: configuration {number}: {extra[0]} does not apply to it")


def _encode(space: SearchSpace, point: Mapping[str, Any]) -> np.ndarray:
    """[n_domains]: numbers from 0 to 1, an option's index, NaN where a domain is inactive."""
    row = [
        _scaled(domain, point[name]) if name in point else _INACTIVE
        for name, domain in space.domains.items()
    ]
    return np.array(row)


def _scaled(domain: Domain, value: Any) -> float:
    if isinstance(domain, Choice):
        keys = [(type(option), option) for option in domain.options]
        return float(keys.index((type(value), value)))
    low, high, number = float(domain.low), float(domain.high), float(value)
    if domain.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low) if high > low else 0.0


def _numeric(space: SearchSpace) -> np.ndarray:
    return np.array([not isinstance(domain, Choice) for domain in space.domains.values()])


def _distances(encoded: np.ndarray, row: np.ndarray, numeric: np.ndarray) -> np.ndarray:
    """[n_configurations]: the sum of the domains' distances, each from 0 to 1."""
    gaps = np.abs(encoded - row)
    gaps = np.where(numeric, gaps, gaps > 0)
    one_inactive = np.isnan(encoded) != np.isnan(row)
    both_inactive = np.isnan(encoded) & np.isnan(row)
    return np.where(one_inactive, 1.0, np.where(both_inactive, 0.0, gaps)).sum(axis=1)
