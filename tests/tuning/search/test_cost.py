"""--cost-aware: what trials cost is learned, and the search spends less for the same."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from helpers import reopened

from search_spaces.domains import Choice, Float, Int, SearchSpace
from trainables.errors import InputError
from tuning.record.events import TrialRecord, read_history
from tuning.record.options import COST_AWARE_NAMES
from tuning.search.cost import SECONDS, seconds_of_all_epochs
from tuning.search.curve_search import CurveSearch, _log_expected_improvement
from tuning.search.samplers import COST_AWARE, SEARCHERS
from tuning.search.study import Study

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
    """Best at x = 0.3; what costs does not matter."""
    return -((point["x"] - 0.3) ** 2)


def seconds_of(point: dict) -> float:
    return float(point["width"] * (1 if point["kind"] == "fast" else 3 * point["depth"]))


def search(
    searcher: str, seed: int, *, cost_aware: bool, n_trials: int = 60
) -> list[tuple[float, float]]:
    """After each trial the seconds spent so far and the best value."""
    options = {"scheduler": "none", "direction": "max", "epochs": 3}
    study = Study(SPACE, searcher=searcher, seed=seed, cost_aware=cost_aware, **options)
    best, spent = -math.inf, 0.0
    found = []
    for number in range(n_trials):
        point = study.ask(number)
        value = value_of(point)
        best, spent = max(best, value), spent + seconds_of(point)
        found.append((spent, best))
        for epoch in (1, 2, 3):
            study.report(number, epoch, value - 0.1 * (3 - epoch))
        study.tell(number, "completed", value, seconds=seconds_of(point))
    return found


def best_within(runs: list[list[tuple[float, float]]], seconds: float) -> float:
    """The median over searches of what they have found by then."""
    return statistics.median(max(b for spent, b in run if spent <= seconds) for run in runs)


@pytest.mark.parametrize("searcher", COST_AWARE_NAMES)
def test_it_spends_less_and_finds_better_points_in_the_same_time(searcher):
    plain = [search(searcher, seed, cost_aware=False) for seed in range(6)]
    aware = [search(searcher, seed, cost_aware=True) for seed in range(6)]
    spent = [statistics.median(run[-1][0] for run in runs) for runs in (plain, aware)]
    assert spent[1] < 0.65 * spent[0]
    # The best is 0. At the end of all trials both are as good as there.
    assert best_within(aware, 500) > 0.3 * best_within(plain, 500)
    assert min(best_within(plain, 1e9), best_within(aware, 1e9)) > -0.001


def test_seconds_are_predicted_from_what_trials_took():
    study = Study(
        SPACE, searcher="tpe", scheduler="none", direction="max", epochs=1, seed=0, cost_aware=True
    )
    for number in range(80):
        point = study.ask(number)
        study.tell(number, "pruned", None, seconds=seconds_of(point))
    study.ask(80)
    sampler = study._optuna.study.sampler
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
    sampler = study._optuna.study.sampler
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
    sweep = toy_sweep("seconds=0.01", trials=12, cost_aware=True, scheduler="none", searcher="tpe")
    run(sweep)
    told: list[float | None] = []
    whole = Study.restore_all

    def restore_all(self, *arguments):
        whole(self, *arguments)
        told.extend(trial.user_attrs.get(SECONDS) for trial in self._optuna.study.get_trials())

    monkeypatch.setattr(Study, "restore_all", restore_all)
    again = reopened(sweep, trials=13)
    assert again.cost_aware
    run(again)
    assert len(read_history(sweep.folder).trials) == 13
    assert len(told) == 12
    assert all(seconds is not None and 0.04 <= seconds < 30 for seconds in told)


@pytest.mark.parametrize("trials", [12, 30])
def test_the_default_search_learns_costs_also_of_what_is_frozen(
    toy_sweep, run, monkeypatch, trials
):
    sweep = toy_sweep("seconds=0.01", "epochs=9", trials=trials, cost_aware=True)
    assert (sweep.searcher, sweep.scheduler) == ("curves", "freeze-thaw")
    searches: list[CurveSearch] = []
    begin = CurveSearch.__init__

    def remembered(self, *arguments, **options):
        searches.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(CurveSearch, "__init__", remembered)
    run(sweep)
    run(reopened(sweep, trials=trials + 1))
    known = read_history(sweep.folder).trials
    assert any(trial.state == "pruned" for trial in known.values())
    for search, n in zip(searches, (trials, trials + 1), strict=True):
        assert set(search._costs) == set(range(n))
        assert all(0.09 <= math.exp(seconds) < 60 for _, seconds in search._costs.values())


def test_costs_are_predicted_also_where_settings_are_not_active():
    search = CurveSearch(SPACE, direction="max", epochs=3, seed=0, cost_aware=True)
    generator = random.Random(0)
    for number in range(80):
        point = SPACE.sample(generator)
        search.costs(number, point, seconds_of(point))
    points = [{"x": 0.5, "width": width, "kind": "fast"} for width in (2, 8, 32)]
    points.append({"x": 0.5, "width": 8, "kind": "slow", "depth": 4})
    predicted = np.exp(search._predict_log_seconds(search._encode(points)))
    assert predicted[:3] == pytest.approx([2.0, 8.0, 32.0], rel=0.4)
    assert 6 <= predicted[3] / predicted[1] <= 24  # 12


def test_the_expected_improvement_keeps_its_digits():
    z = np.array([-60.0, -8.0, -1.5, -1.0, -0.5, 0.0, 2.0, 9.0])
    found = _log_expected_improvement(z, np.full(len(z), 2.0))
    normal = statistics.NormalDist()
    direct = [math.log(2 * (normal.pdf(v) + v * normal.cdf(v))) for v in z[2:]]
    assert found[2:] == pytest.approx(direct)
    # By Mills' ratio E[max(z + x, 0)] is nearly the density divided by z squared.
    assert found[0] == pytest.approx(
        math.log(2) - 1800 - 0.5 * math.log(2 * math.pi) - 2 * math.log(60), abs=0.01
    )
    assert list(found) == sorted(found)


def test_only_some_searchers_can(toy_sweep):
    with pytest.raises(
        InputError, match=r"--cost-aware: --searcher random can not .* valid: curves, tpe"
    ):
        toy_sweep(searcher="random", cost_aware=True)
    with pytest.raises(InputError, match=r"--cost-aware: .* one metric, and 2 are given"):
        toy_sweep(cost_aware=True, metric=["value:max", "seconds:min"])
    assert tuple(COST_AWARE) == COST_AWARE_NAMES
    assert set(COST_AWARE) <= set(SEARCHERS)
