"""What came of a retraining's runs: each seed's curve, test and checkpoint, and a comparison."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuning.after.comparison import Gain, paired_gain
from tuning.control.retraining import Training, is_completed, trainings_of
from tuning.hosting.testing import TEST_FILE
from tuning.record.events import SweepHistory, TrialRecord
from tuning.record.plans import RetrainingPlan
from tuning.record.sweep import Sweep
from tuning.storage.open_store import store_of


@dataclass(frozen=True)
class SeedResult:
    """One training of a configuration."""

    seed: int
    value: float  # best value of the sweep's metric
    curve: Mapping[int, Mapping[str, float]]
    test: Mapping[str, float] | None
    artifacts: dict[str, bytes]  # of the test: a file's name -> its content
    checkpoint: str  # where it is, for a person
    key: str  # of it, in the sweep's store


def read_results(
    sweep: Sweep, history: SweepHistory, plan: RetrainingPlan
) -> tuple[list[SeedResult], list[SeedResult] | None]:
    """Of the winner and of the default, the result of each seed; None where one is missing."""
    trainings = trainings_of(plan, history)
    winner = [each for each in trainings if each.repeats is not None]
    default = [each for each in trainings if each.repeats is None]
    is_whole = default and all(is_completed(history, each.number) for each in default)
    return (
        [_read(sweep, history, each) for each in winner],
        [_read(sweep, history, each) for each in default] if is_whole else None,
    )


def _read(sweep: Sweep, history: SweepHistory, training: Training) -> SeedResult:
    store, run = store_of(sweep), history.retrainings[training.number]
    written = store.read(f"{training.key}/{TEST_FILE}")
    test = None if written is None else json.loads(written)
    value = run.value(sweep.metric, sweep.mode)
    assert value is not None, "a training that has completed has reported"
    return SeedResult(
        seed=training.seed,
        value=value,
        curve=run.curve,
        test=None if test is None else test["metrics"],
        artifacts={} if test is None else _decoded(test["artifacts"]),
        checkpoint=store.find(training.checkpoint) or store.name(training.checkpoint),
        key=training.checkpoint,
    )


def _decoded(artifacts: Mapping[str, str]) -> dict[str, bytes]:
    return {name: base64.b64decode(content) for name, content in artifacts.items()}


def describe_results(
    sweep: Sweep, trial: TrialRecord, results: list[SeedResult], champion: SeedResult
) -> dict[str, Any]:
    """What the document says of the winner's trainings."""
    values = [result.value for result in results]
    tests = _tests(results).items()
    return {
        "sweep": sweep.name,
        "trial": trial.number,
        "checkpoint": champion.checkpoint,
        "champion_seed": champion.seed,
        "trial_value": trial.value(sweep.metric, sweep.mode),
        "metric": sweep.metric,
        "mean": statistics.fmean(values),
        "standard_deviation": _deviation(values),
        "test": dict(champion.test) if champion.test else None,
        "test_mean": {name: statistics.fmean(each) for name, each in tests},
        "test_standard_deviation": (
            {name: _deviation(each) for name, each in tests} if len(results) > 1 else None
        ),
        "artifacts": {
            name: json.loads(content)
            for name, content in champion.artifacts.items()
            if name.endswith(".json")
        },
        "seeds": [_describe(sweep, result) for result in results],
    }


def compare(
    sweep: Sweep,
    plan: RetrainingPlan,
    winner: list[SeedResult],
    default: list[SeedResult] | None,
    why_not: str,
) -> dict[str, Any]:
    """How the winner compares with the default; ``why_not`` says why there is none."""
    if default is None or plan.default is None:
        return {"default": None, "gains": [], "verdict": why_not}
    gains = gains_of(sweep, winner, default)
    return {
        "default": {
            "config": plan.default,
            "seeds": [_describe(sweep, result) for result in default],
        },
        "gains": [gain.to_json() for gain in gains],
        "verdict": gains[-1].sentence(),  # of the test split, where there is one
    }


def gains_of(sweep: Sweep, winner: list[SeedResult], default: list[SeedResult]) -> list[Gain]:
    """Of the sweep's metric, then of the same metric on the test split, if that has it."""
    mine, others = ([result.value for result in results] for results in (winner, default))
    gains = [paired_gain(sweep.metric, mine, others, sweep.mode)]
    name = sweep.metric.removeprefix("val_")
    tested = [_tests(results).get(name, []) for results in (winner, default)]
    if name != sweep.metric and all(tested):
        gains.append(paired_gain(f"test_{name}", tested[0], tested[1], sweep.mode))
    return gains


def _describe(sweep: Sweep, result: SeedResult) -> dict[str, Any]:
    return {
        "seed": result.seed,
        sweep.metric: result.value,
        "test": dict(result.test) if result.test else None,
        "checkpoint": result.checkpoint,
    }


def _tests(results: list[SeedResult]) -> Mapping[str, list[float]]:
    """Each test metric's values, one per seed."""
    names = results[0].test or {}
    return {
        name: [result.test[name] for result in results if result.test is not None] for name in names
    }


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
