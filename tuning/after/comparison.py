"""The winner beside the default configuration, seed by seed: is the gain more than noise?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainables.errors import InputError
from trainables.metrics import Direction
from trainables.tasks.table import task_row
from tuning.record.sweep import Sweep
from tuning.search.starting_points import default_point

CONFIDENCE = 0.95  # of the interval around a gain; the customary level


@dataclass(frozen=True)
class Gain:
    """By how much one configuration is better than another, over the same seeds.

    The difference is taken for each seed and then averaged, so that what a seed does to both
    cancels. The interval is Student's t for paired samples.
    """

    metric: str
    mean: float  # greater than 0: better, also where less of the metric is better
    n_seeds: int
    standard_deviation: float | None  # this and the next three: None for a single seed
    standard_error: float | None
    low: float | None  # bounds of the interval
    high: float | None

    @property
    def exceeds_noise(self) -> bool:
        """Whether the whole interval is better."""
        return self.low is not None and self.low > 0

    def sentence(self) -> str:
        """Whether the gain exceeds seed noise, for a person."""
        metric = self.metric.replace("_", " ")
        if self.mean == 0 and not self.standard_error:
            return f"{metric} is the same as with the default configuration"
        how = "better" if self.mean >= 0 else "worse"
        gain = f"{metric} is {abs(self.mean):.4f} {how} than with the default configuration"
        if self.low is None or self.high is None:
            return f"{gain}; with one seed that can not be told from seed noise"
        noise = "exceeds" if self.low > 0 or self.high < 0 else "does not exceed"
        return (
            f"{gain}, which {noise} seed noise: the {CONFIDENCE:.0%} interval of the gain is "
            f"{self.low:+.4f} to {self.high:+.4f} over {self.n_seeds} paired seeds"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "exceeds_seed_noise": self.exceeds_noise}


def paired_gain(
    metric: str, winner: Sequence[float], default: Sequence[float], mode: Direction
) -> Gain:
    """The gain of ``winner`` over ``default``, whose values belong to the same seeds in turn."""
    from scipy.stats import t

    sign = 1 if mode == "max" else -1
    differences = [sign * (w - d) for w, d in zip(winner, default, strict=True)]
    mean, n = statistics.fmean(differences), len(differences)
    if n < 2:
        return Gain(metric, mean, n, None, None, None, None)
    deviation = statistics.stdev(differences)
    error = deviation / math.sqrt(n)
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Gain(metric, mean, n, deviation, error, mean - half_width, mean + half_width)


def default_configuration(sweep: Sweep) -> dict[str, Any]:
    """What one would train without a search, in full.

    The first starting point; for what it leaves out, or without one, the task's defaults; the
    middle of the domain where there is no default either.

    Raises:
        InputError: these do not go together.
    """
    space = sweep.space
    config_type = None if space.task is None else task_row(space.task).config_type
    given = space.starting_points[0] if space.starting_points else {}
    point = default_point(space, config_type, given)
    try:
        return sweep.configuration(point)
    except InputError as error:
        raise InputError(
            f"the default configuration: {error}; --no-baseline retrains without it"
        ) from None
