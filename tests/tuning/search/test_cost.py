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
from tuning.search.cost import CostModel, seconds_of_all_epochs
from tuning.search.curve_search import CurveSearch, _log_expected_improvement
from tuning.search.plan import SearchPlan
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


def search(seed: int, *, cost_aware: bool, n_trials: int = 60) -> list[tuple[float, float]]:
    """After each trial the seconds spent so far and the best value."""
    plan = SearchPlan(SPACE, scheduler="none", epochs=3, seed=seed, cost_aware=cost_aware)
    study = Study(plan)
    best, spent = -math.inf, 0.0
    found = []
    for number in range(n_trials):
        point = study.ask(number)
        value = value_of(point)
        best, spent = max(best, value), spent + seconds_of(point)
        found.append((spent, best))
        for epoch in (1, 2, 3):
            study.report(number, epoch, value - 0.1 * (3 - epoch))
        study.tell(number, "completed", value)
        study.curves.costs(number, point, seconds_of(point))
    return found


def best_within(runs: list[list[tuple[float, float]]], seconds: float) -> float:
    """The median over searches of what they have found by then."""
    return statistics.median(max(b for spent, b in run if spent <= seconds) for run in runs)


def test_it_spends_less_and_finds_better_points_in_the_same_time():
    plain = [search(seed, cost_aware=False) for seed in range(6)]
    aware = [search(seed, cost_aware=True) for seed in range(6)]
    spent = [statistics.median(run[-1][0] for run in runs) for runs in (plain, aware)]
    assert spent[1] < 0.65 * spent[0]
    # The best is 0. At the end of all trials both are as good as there.
    assert best_within(aware, 500) > 0.3 * best_within(plain, 500)
    assert min(best_within(plain, 1e9), best_within(aware, 1e9)) > -0.001


def test_nothing_is_weighed_before_there_is_something_to_learn_from():
    costs, encoded = CostModel(), np.random.default_rng(0).random((12, 3))
    for number in range(9):
        costs.learn(number, encoded[number], 5.0)
    costs.learn(9, encoded[9], 0.0)  # says nothing
    assert list(costs.predict_log_seconds(encoded)) == [0.0] * 12
    costs.learn(9, encoded[9], 5.0)
    assert costs.predict_log_seconds(encoded) == pytest.approx(math.log(5.0))


def test_what_a_whole_training_costs():
    trial = TrialRecord(0, {"epochs": 10}, {})
    assert seconds_of_all_epochs(trial, 3.0, 100) is None
    trial.curve = {1: {"seconds": 2.0}, 2: {"seconds": 4.0}}
    assert seconds_of_all_epochs(trial, 99.0, 100) == 30.0
    trial.curve = {1: {"value": 2.0}, 2: {"value": 4.0}}
    assert seconds_of_all_epochs(trial, 8.0, 100) == 40.0
    trial.config = {}
    assert seconds_of_all_epochs(trial, 8.0, 100) == 400.0


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
        assert set(search._costs.known) == set(range(n))
        assert all(0.09 <= math.exp(seconds) < 60 for _, seconds in search._costs.known.values())


def test_costs_are_predicted_also_where_settings_are_not_active():
    search = CurveSearch(SearchPlan(SPACE, epochs=3, cost_aware=True))
    generator = random.Random(0)
    for number in range(80):
        point = SPACE.sample(generator)
        search.costs(number, point, seconds_of(point))
    points = [{"x": 0.5, "width": width, "kind": "fast"} for width in (2, 8, 32)]
    points.append({"x": 0.5, "width": 8, "kind": "slow", "depth": 4})
    predicted = np.exp(search._costs.predict_log_seconds(search._encode(points)))
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


@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_only_the_default_search_weighs_costs(toy_sweep, searcher):
    with pytest.raises(
        InputError, match=rf"--cost-aware: --searcher {searcher} can not .* valid: curves$"
    ):
        toy_sweep(searcher=searcher, cost_aware=True)
    with pytest.raises(InputError, match=r"--cost-aware: .* one metric, and 2 are given"):
        toy_sweep(cost_aware=True, metric=["value:max", "seconds:min"])
