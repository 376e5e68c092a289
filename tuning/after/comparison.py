"""What came of a retraining: each seed's values, and whether the gain is more than seed noise."""

from __future__ import annotations

import base64
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainables.metrics import Direction
from tuning.control.retraining import Training, trainings_of
from tuning.hosting.testing import TEST_FILE
from tuning.record.events import SweepHistory
from tuning.record.plans import RetrainingPlan
from tuning.record.sweep import Sweep
from tuning.storage.open_store import store_of

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


def gains_of(
    sweep: Sweep, winner: Sequence[dict[str, Any]], default: Sequence[dict[str, Any]]
) -> list[Gain]:
    """Of the sweep's metric, then of the same metric on the test split, if that has it.

    Args:
        winner: a row for each seed, as is ``default``.
    """
    mine, others = ([row[sweep.metric] for row in rows] for rows in (winner, default))
    gains = [paired_gain(sweep.metric, mine, others, sweep.mode)]
    name = sweep.metric.removeprefix("val_")
    mine, others = (_tests(rows).get(name, []) for rows in (winner, default))
    if name != sweep.metric and mine and others:
        gains.append(paired_gain(f"test_{name}", mine, others, sweep.mode))
    return gains


def describe(
    sweep: Sweep, history: SweepHistory, plan: RetrainingPlan, why_not: str
) -> tuple[Training, dict[str, Any]]:
    """The champion, and what the document says of all trainings.

    Args:
        why_not: why there is no comparison with the default configuration, if there is none.
    """
    trainings = trainings_of(plan, history)
    winner = [each for each in trainings if not each.is_of_default]
    rows = [_row(sweep, each) for each in winner]
    values, tests = [row[sweep.metric] for row in rows], _tests(rows).items()
    best = values.index(max(values) if sweep.mode == "max" else min(values))
    trial = history.trials[plan.number]
    # A test split that was read for this plan is the last reading so far.
    earlier_reads = history.test_reads[: -1 if history.is_test_read else None]
    return winner[best], {
        "sweep": sweep.name,
        "trial": trial.number,
        "checkpoint": rows[best]["checkpoint"],
        "champion_seed": rows[best]["seed"],
        "trial_value": trial.value(sweep.metric, sweep.mode),
        "metric": sweep.metric,
        "mean": statistics.fmean(values),
        "standard_deviation": _deviation(values),
        "test": rows[best]["test"],
        "test_mean": {name: statistics.fmean(each) for name, each in tests},
        "test_standard_deviation": (
            {name: _deviation(each) for name, each in tests} if len(rows) > 1 else None
        ),
        "artifacts": {
            name: json.loads(content)
            for name, content in artifacts_of(sweep, winner[best]).items()
            if name.endswith(".json")
        },
        "seeds": rows,
        **_compare(sweep, plan, rows, [each for each in trainings if each.is_of_default], why_not),
        "test_reads_before": len(earlier_reads),
        "test_read_for_trials": earlier_reads,
    }


def _compare(
    sweep: Sweep,
    plan: RetrainingPlan,
    winner: list[dict[str, Any]],
    trainings: list[Training],
    why_not: str,
) -> dict[str, Any]:
    """How the winner compares with the default, whose ``trainings`` may have failed."""
    if not all(each.is_done for each in trainings):
        where = store_of(sweep).name(f"{plan.key}/default")
        why_not = f"the default configuration could not be trained: see {where!r}"
    if why_not:
        return {"default": None, "gains": [], "verdict": why_not}
    default = [_row(sweep, each) for each in trainings]
    gains = gains_of(sweep, winner, default)
    return {
        "default": {"config": plan.default, "seeds": default},
        "gains": [gain.to_json() for gain in gains],
        "verdict": gains[-1].sentence(),  # of the test split, where there is one
    }


def _row(sweep: Sweep, training: Training) -> dict[str, Any]:
    store, run = store_of(sweep), training.run
    return {
        "seed": run.config["seed"],
        sweep.metric: run.value(sweep.metric, sweep.mode),
        "test": _tested(sweep, training)["metrics"] or None,
        "checkpoint": store.find(training.checkpoint) or store.name(training.checkpoint),
    }


def artifacts_of(sweep: Sweep, training: Training) -> dict[str, bytes]:
    """What the test of a training has left to be shown: a file's name -> its content."""
    artifacts = _tested(sweep, training)["artifacts"]
    return {name: base64.b64decode(content) for name, content in artifacts.items()}


def _tested(sweep: Sweep, training: Training) -> dict[str, Any]:
    written = store_of(sweep).read(f"{training.key}/{TEST_FILE}")
    found: dict[str, Any] = json.loads(written or '{"metrics": {}, "artifacts": {}}')
    return found


def _tests(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Each test metric's values, one per seed."""
    tests = [row["test"] for row in rows if row["test"]]
    return {name: [test[name] for test in tests] for name in (tests[0] if tests else ())}


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
