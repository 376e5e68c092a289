"""--cost-aware: what trials cost is learned, and the search spends less for the same."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from conftest import reopened

from search_spaces.domains import Choice, Float, Int, SearchSpace
from trainables.errors import InputError
from tuning.cost import SECONDS, seconds_of_all_epochs
from tuning.options import COST_AWARE_NAMES
from tuning.record import TrialRecord, read_history
from tuning.samplers import COST_AWARE, SEARCHERS
from tuning.searcher import Study

SPACE = SearchSpace(
    name="costs",
    domains={
        "x": Float(0.0, 1.0),
        "width": Int(1, 64, log=True),
        "kind": Choice("fast", "slow"),
        "depth": Int(1, 4, when={"kind": "slow"}),
    },
)


def value_of(point: dict) -> float:
    """Best at x = 0.3; width and kind hardly matter."""
    return -((point["x"] - 0.3) ** 2) - 0.001 * math.log(65 / point["width"])


def seconds_of(point: dict) -> float:
    return float(point["width"] * (1 if point["kind"] == "fast" else 3 * point["depth"]))


def search(seed: int, *, cost_aware: bool, n_trials: int = 60) -> tuple[float, float]:
    """The best value and the seconds spent."""
    options = {"searcher": "tpe", "scheduler": "none", "direction": "max", "epochs": 1}
    study = Study(SPACE, seed=seed, cost_aware=cost_aware, **options)
    values, spent = [], 0.0
    for number in range(n_trials):
        point = study.ask(number)
        values.append(value_of(point))
        spent += seconds_of(point)
        study.tell(number, "completed", values[-1], seconds=seconds_of(point))
    return max(values), spent


def test_it_spends_less_and_finds_as_good_a_point():
    plain = [search(seed, cost_aware=False) for seed in range(6)]
    aware = [search(seed, cost_aware=True) for seed in range(6)]
    spent = [statistics.median(seconds for _, seconds in runs) for runs in (plain, aware)]
    assert spent[1] < 0.6 * spent[0]
    # Of the value's range of 0.49, next to nothing.
    assert statistics.median(v for v, _ in aware) > statistics.median(v for v, _ in plain) - 0.005


def test_seconds_are_predicted_from_what_trials_took():
    study = Study(
        SPACE, searcher="tpe", scheduler="none", direction="max", epochs=1, seed=0, cost_aware=True
    )
    for number in range(80):
        point = study.ask(number)
        study.tell(number, "pruned", None, seconds=seconds_of(point))
    study.ask(80)
    sampler = study._study.sampler
    widths = np.array([2.0, 8.0, 32.0, 8.0])
    kinds = np.array([0.0, 0.0, 0.0, 1.0])
    predicted = np.exp(sampler._predict_log_seconds({"width": widths, "kind": kinds}))
    assert predicted[:3] == pytest.approx([2.0, 8.0, 32.0], rel=0.4)
    assert 3 <= predicted[3] / predicted[1] <= 12  # depth, 1 to 4, is not among what it is asked


def test_nothing_is_weighed_before_there_is_something_to_learn_from():
    study = Study(
        SPACE, searcher="tpe", scheduler="none", direction="max", epochs=1, seed=0, cost_aware=True
    )
    for number in range(12):
        study.ask(number)
        study.tell(number, "completed", 0.0, seconds=5.0 if number < 9 else None)
    study.ask(12)
    sampler = study._study.sampler
    assert list(sampler._predict_log_seconds({"x": np.array([0.1, 0.9])})) == [0.0, 0.0]


def test_without_costs_it_proposes_what_tpe_proposes():
    points = []
    for cost_aware in (False, True):
        study = Study(
            SPACE,
            searcher="tpe",
            scheduler="none",
            direction="max",
            epochs=1,
            seed=4,
            cost_aware=cost_aware,
        )
        found = []
        for number in range(30):
            found.append(study.ask(number))
            study.tell(number, "completed", value_of(found[-1]))
        points.append(found)
    assert points[0] == points[1]


def test_what_a_whole_training_costs():
    trial = TrialRecord(0, {"epochs": 10}, {})
    assert seconds_of_all_epochs(trial, 3.0, 100) is None
    trial.curve = {1: {"seconds": 2.0}, 2: {"seconds": 4.0}}
    assert seconds_of_all_epochs(trial, 99.0, 100) == 30.0
    trial.curve = {1: {"value": 2.0}, 2: {"value": 4.0}}
    assert seconds_of_all_epochs(trial, 8.0, 100) == 40.0
    trial.config = {}
    assert seconds_of_all_epochs(trial, 8.0, 100) == 400.0


def test_a_resumed_sweep_knows_the_costs(toy_sweep, run, monkeypatch):
    sweep = toy_sweep("seconds=0.01", trials=12, cost_aware=True, scheduler="none")
    run(sweep)
    told: list[float | None] = []
    whole = Study.restore_all

    def restore_all(self, *arguments):
        whole(self, *arguments)
        told.extend(trial.user_attrs.get(SECONDS) for trial in self._study.get_trials())

    monkeypatch.setattr(Study, "restore_all", restore_all)
    again = reopened(sweep, trials=13)
    assert again.cost_aware
    run(again)
    assert len(read_history(sweep.folder).trials) == 13
    assert len(told) == 12
    assert all(seconds is not None and 0.04 <= seconds < 30 for seconds in told)


def test_only_some_searchers_can(toy_sweep):
    with pytest.raises(InputError, match=r"--cost-aware: --searcher random can not .* valid: tpe"):
        toy_sweep(searcher="random", cost_aware=True)
    with pytest.raises(InputError, match=r"--cost-aware: .* one metric, and 2 are given"):
        toy_sweep(cost_aware=True, metric="value:max", more_metrics=["seconds:min"])
    assert tuple(COST_AWARE) == COST_AWARE_NAMES
    assert set(COST_AWARE) <= set(SEARCHERS)
