"""The model of learning curves, the search that uses it, and the freezing and thawing of trials."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from examples import N_SPACES
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.domains import Choice, Float, Int, SearchSpace
from tuning.before_start.spaces import load_space, space_names
from tuning.record.events import TrialRecord, TrialState
from tuning.search.curve_model import CurveModel, Curves, Encoder, shapes
from tuning.search.curve_search import CurveSearch
from tuning.search.freeze_thaw import FreezeThaw, rungs
from tuning.search.plan import SearchPlan
from tuning.search.study import Study

SPACE = SearchSpace(
    name="curves",
    domains={
        "rate": Float(1e-4, 1e-1, log=True),
        "width": Int(8, 64),
        "kind": Choice("plain", "deep"),
        "depth": Int(1, 4, when={"kind": "deep"}),
    },
)


def observations(n_trials: int, n_columns: int, seed: int) -> tuple[Curves, np.ndarray]:
    """Trials at random places, whose values follow the first column."""
    generator = np.random.default_rng(seed)
    points = generator.random((n_trials, n_columns))
    trial = np.repeat(np.arange(n_trials), 3)
    epoch = np.tile([2.0, 9.0, 27.0], n_trials)
    noise = 0.05 * generator.standard_normal(len(trial))
    value = np.sin(4 * points[trial, 0]) - 0.5 * shapes(epoch, 27)[:, 1] + noise
    return Curves(trial, shapes(epoch, 27), value), points


def test_the_slope_of_the_loss_is_that_of_finite_differences():
    curves, points = observations(12, 3, seed=1)
    model = CurveModel(np.arange(3))
    distances = (points.T[:, :, None] - points.T[:, None, :]) ** 2
    at = model.parameters + 0.1 * np.random.default_rng(2).standard_normal(len(model.parameters))
    step = 1e-5
    numeric = [
        (model._loss(at + step * e, curves, distances)[0]
         - model._loss(at - step * e, curves, distances)[0]) / (2 * step)
        for e in np.eye(len(at))
    ]  # fmt: skip
    assert model._loss(at, curves, distances)[1] == pytest.approx(numeric, abs=1e-4)


def test_it_foresees_the_end_of_trials_it_has_not_seen():
    curves, points = observations(40, 3, seed=3)
    model = CurveModel(np.arange(3))
    model.fit(curves, points)
    model.condition(curves, points)
    unseen = np.random.default_rng(4).random((50, 3))
    queries = Curves(np.arange(50), shapes(np.full(50, 27.0), 27), np.empty(0))
    mean, variance = model.predict(queries, unseen, [None] * 50)
    error = mean - np.sin(4 * unseen[:, 0])
    assert np.sqrt((error**2).mean()) < 0.2
    assert (np.abs(error) < 3 * np.sqrt(variance) + 0.1).mean() > 0.9


def test_a_trial_is_foreseen_better_the_longer_it_has_run():
    curves, points = observations(30, 3, seed=5)
    model = CurveModel(np.arange(3))
    model.condition(curves, points)
    queries = Curves(np.arange(2), shapes(np.full(2, 27.0), 27), np.empty(0))
    _, variance = model.predict(queries, points[[0, 0]], [0, None])
    assert variance[0] < variance[1]


def test_points_are_as_far_apart_as_their_domains_say():
    encode = Encoder(SPACE)
    low, high, deep = encode(
        [
            {"rate": 1e-4, "width": 8, "kind": "plain"},
            {"rate": 1e-1, "width": 8, "kind": "plain"},
            {"rate": 1e-4, "width": 8, "kind": "deep", "depth": 1},
        ]
    )
    assert ((low - high) ** 2).sum() == pytest.approx(1.0)
    kind = encode.domain_of_column == 2
    assert ((low - deep)[kind] ** 2).sum() == pytest.approx(1.0)
    depth = encode.domain_of_column == 3
    assert ((low - deep)[depth] ** 2).sum() == pytest.approx(0.5)  # inactive: 0.5 from all
    assert len(encode.domain_of_column) == 1 + 1 + 2 + 2


def test_every_built_in_space_can_be_encoded():
    names = space_names()
    assert len(names) == N_SPACES
    for name in names:
        space = load_space(name).space
        generator = random.Random(1)
        rows = Encoder(space)([space.sample(generator) for _ in range(30)])
        assert rows.shape == (30, len(Encoder(space).domain_of_column))
        assert np.isfinite(rows).all()
        assert (np.abs(rows) <= 1).all()


def slow_starter(point: dict, epoch: int) -> float:
    """Small rates start behind and end ahead."""
    place = (np.log10(point["rate"]) + 4) / 3
    return float((1 - 0.5 * place) * (1 - np.exp(-epoch * (0.05 + place))))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_it_learns_that_slow_starters_end_ahead(mode):
    sign = 1 if mode == "max" else -1
    search = CurveSearch(SearchPlan(SPACE, directions=(mode,), epochs=27))
    generator = random.Random(0)
    points = [SPACE.sample(generator) for _ in range(40)]
    for number, point in enumerate(points):
        for epoch in range(1, 28 if number < 20 else 3):
            search.observe(number, point, epoch, sign * slow_starter(point, epoch))
    frozen = range(20, 40)
    ends = search.foresee(list(frozen))
    truth = [slow_starter(points[number], 27) for number in frozen]
    foreseen = [ends[number] for number in frozen]
    now = [slow_starter(points[number], 2) for number in frozen]
    assert np.corrcoef(foreseen, truth)[0, 1] > 0.8
    assert np.corrcoef(now, truth)[0, 1] < 0
    proposed = [search.propose()["rate"] for _ in range(20)]
    assert np.median(proposed) < 10**-2.5


def test_trials_that_diverge_are_kept_away_from():
    search = CurveSearch(SearchPlan(SPACE, directions=("max",), epochs=9))
    generator = random.Random(0)
    for number in range(30):
        point = SPACE.sample(generator)
        if point["rate"] > 1e-2:
            search.diverged(number, point)
        else:
            search.observe(number, point, 9, 0.8)
    assert np.mean([search.propose()["rate"] > 1e-2 for _ in range(40)]) < 0.25


def test_equal_values_and_a_single_value_are_no_trouble():
    search = CurveSearch(SearchPlan(SPACE, directions=("max",), epochs=3))
    generator = random.Random(0)
    for number in range(12):
        search.observe(number, SPACE.sample(generator), 1, 0.5)
    point = search.propose()
    assert all(SPACE.domains[name].contains(value) for name, value in point.items())


def test_what_a_proposal_costs_does_not_grow(monkeypatch):
    search = CurveSearch(SearchPlan(SPACE, directions=("max",), epochs=3))
    generator = random.Random(0)
    for number in range(2000):
        search.observe(number, SPACE.sample(generator), 3, generator.random())
    sizes = []
    condition = CurveModel.condition

    def measured(model, curves, points):
        sizes.append(len(points))
        condition(model, curves, points)

    monkeypatch.setattr(CurveModel, "condition", measured)
    search.foresee([5])
    assert sizes == [150]


@given(st.integers(1, 400), st.one_of(st.none(), st.integers(1, 5000)))
def test_rungs_rise_to_the_last_epoch(epochs, n_trials):
    found = rungs(epochs, n_trials)
    assert found[-1] == epochs
    assert found == sorted(set(found))
    assert found[0] >= 1
    assert len(found) <= 5


def test_few_trials_are_trained_longer_before_any_is_frozen():
    assert rungs(27, 8) == [27]
    assert rungs(27, 12) == [9, 27]
    assert rungs(27, 30) == [3, 9, 27]
    assert rungs(52, None) == [2, 6, 18, 52]


class Workers:
    """Runs what a freezer decides, some trials at once, in a random order."""

    def __init__(self, freezer: FreezeThaw, epochs: int, seed: int) -> None:
        self.freezer, self.epochs = freezer, epochs
        self.random = random.Random(seed)
        self.done: dict[int, int] = {}
        self.running: list[int] = []
        self.frozen: set[int] = set()

    def run(self, n_trials: int, n_workers: int) -> None:
        while True:
            while len(self.running) < n_workers:
                number = self.freezer.thaw(is_last_call=len(self.done) >= n_trials)
                if number is not None:
                    assert number in self.frozen
                    self.frozen.remove(number)
                elif len(self.done) < n_trials:
                    number = len(self.done)
                    self.done[number] = 0
                    self.freezer.start(number)
                else:
                    break
                self.running.append(number)
            if not self.running:
                return
            self.step(self.random.choice(self.running))

    def step(self, number: int) -> None:
        self.done[number] += 1
        if self.random.random() < 0.01:
            self.running.remove(number)
            self.freezer.ended(number)  # it failed
        elif self.freezer.observe(number, self.done[number], self.random.random()):
            assert self.done[number] in self.freezer.rungs[:-1]
            self.running.remove(number)
            self.frozen.add(number)
        elif self.done[number] == self.epochs:
            self.running.remove(number)
            self.freezer.ended(number)


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 80), st.integers(1, 8), st.integers(0, 10**6))
def test_it_always_comes_to_an_end_and_trains_some_to_theirs(epochs, n_trials, n_workers, seed):
    plan = SearchPlan(SPACE, epochs=epochs, n_trials=n_trials, seed=seed)
    freezer = FreezeThaw(plan, lambda numbers: {number: float(number) for number in numbers})
    workers = Workers(freezer, epochs, seed)
    workers.run(n_trials, n_workers)
    assert len(workers.done) == n_trials
    assert not freezer.can_thaw(is_last_call=True)
    if n_trials >= 9:
        assert sum(n == epochs for n in workers.done.values()) >= 1


def test_the_best_third_goes_on():
    values = {number: float(number % 9) for number in range(9)}
    plan = SearchPlan(SPACE, directions=("min",), epochs=9, n_trials=27)
    freezer = FreezeThaw(plan, lambda numbers: {number: -values[number] for number in numbers})
    first = freezer.rungs[0]
    for number in values:
        freezer.start(number)
    for number, value in values.items():
        if not freezer.observe(number, first, value):
            assert value == min(list(values.values())[: number + 1])
    thawed = []
    while (number := freezer.thaw(is_last_call=False)) is not None:
        thawed.append(number)
    assert len(thawed) <= 3
    assert set(thawed) <= {0, 1, 2}


def test_no_more_than_some_stay_frozen():
    plan = SearchPlan(SPACE, directions=("max",), epochs=27, n_trials=None)
    freezer = FreezeThaw(plan, lambda numbers: {number: float(-number) for number in numbers})
    best: list[int] = []
    for number in range(30):  # fewer than would have a longer first leg
        freezer.start(number)
        frozen = freezer.observe(number, freezer.rungs[0], float(-number))
        best += [number] if frozen else []
    given_up = freezer.give_up()
    assert given_up == best[20:]
    assert freezer.give_up() == []


def test_a_restored_freezer_knows_who_is_frozen():
    plan = SearchPlan(SPACE, directions=("max",), epochs=9, n_trials=27)
    freezer = FreezeThaw(plan, lambda numbers: {number: float(number) for number in numbers})
    first = freezer.rungs[0]

    def restore(number: int, state: TrialState, n_epochs: int, value: float) -> None:
        curve = {epoch: {"m": value} for epoch in range(1, n_epochs + 1)}
        freezer.restore(TrialRecord(number, {}, {}, state, curve), "m", "max")

    for number in range(6):
        restore(number, "frozen", first, float(number))
    restore(6, "completed", 9, 9.0)
    assert freezer.thaw(is_last_call=False) == 5


def test_a_study_that_freezes_reaches_a_good_value():
    study = Study(SearchPlan(SPACE, epochs=27))
    done: dict[int, int] = {}
    points: dict[int, dict] = {}
    best = 0.0
    n_epochs = 0
    while n_epochs < 15 * 27:
        number = study.freezer.thaw(is_last_call=False)
        if number is None:
            number = len(points)
            points[number] = study.ask(number)
            done[number] = 0
        while True:
            done[number] += 1
            n_epochs += 1
            value = slow_starter(points[number], done[number])
            best = max(best, value)
            if study.report(number, done[number], value):
                break
            if done[number] == 27:
                study.tell(number, "completed", value)
                break
    assert best > 0.72  # the best there is: 0.75


@pytest.mark.parametrize("searcher", ["curves", "random", "qmc", "nsga2"])
def test_a_resumed_study_has_frozen_what_was_frozen(searcher):
    plan = SearchPlan(SPACE, searcher, epochs=9, n_trials=27)
    study = Study(plan)
    records = []
    for number in range(12):
        record = TrialRecord(number, {}, study.ask(number), started=2.0 * number)
        records.append(record)
        for epoch in range(1, 10):
            record.curve[epoch] = {"m": slow_starter(record.point, epoch)}
            if study.report(number, epoch, record.curve[epoch]["m"]):
                record.state = "frozen"
                break
        else:
            record.state, record.ended = "completed", 2.0 * number + 1
            study.tell(number, "completed", record.value("m", "max"))
    again = Study(replace(plan, n_known=12))
    again.restore_all(records, {"m": "max"})
    frozen = {number for rung in again.freezer._frozen for number in rung}
    assert frozen == {record.number for record in records if record.state == "frozen"}
    assert again.freezer._goal == {}
    assert again.freezer._n_started == 12
