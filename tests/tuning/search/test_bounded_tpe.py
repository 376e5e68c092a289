"""The bounded sampler: Optuna's own proposals up to the bound, and a flat cost beyond it."""

from __future__ import annotations

import random
import statistics
import time
from itertools import pairwise

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState as State

from search_spaces.domains import Choice, Float, Int, SearchSpace
from tuning.record.events import TrialRecord
from tuning.search import study as study_module
from tuning.search.bounded_tpe import BoundedTPESampler
from tuning.search.study import Study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SPACE = SearchSpace(
    name="conditional",
    domains={
        "x": Float(1e-4, 1.0, log=True),
        "y": Float(0.0, 1.0),
        "kind": Choice("plain", "scaled", "shifted", "rare"),
        "scale": Int(1, 8, when={"kind": "scaled"}),
        "shift": Float(-1.0, 1.0, when={"kind": "shifted"}),
        "seldom": Int(1, 3, when={"kind": "rare"}),
    },
)


@pytest.fixture
def make_study(monkeypatch):
    def make(sampler: optuna.samplers.BaseSampler) -> Study:
        monkeypatch.setitem(study_module.SEARCHERS, "tpe", lambda seed: sampler)
        options = {"searcher": "tpe", "scheduler": "asha", "direction": "min", "epochs": 9}
        return Study(SPACE, seed=0, **options)

    return make


def loss(point: dict) -> float:
    best = abs(point["y"] - 0.3) + 0.1 * point.get("scale", 5) + abs(point.get("shift", 0.5))
    return best + abs(point["x"] - 0.01)


def search(study: Study, n_trials: int, seed: int, n_at_once: int = 3) -> list[dict]:
    """All points that are proposed; trials end in disorder and in all ways."""
    generator = random.Random(seed)
    points, running = [], []
    for number in range(n_trials):
        points.append(study.ask(number))
        running.append(number)
        if len(running) < n_at_once:
            continue
        done = running.pop(generator.randrange(n_at_once))
        value = loss(points[done])
        state = generator.choice(["completed", "completed", "completed", "infeasible", "failed"])
        for epoch in range(1, 9):
            if study.report(done, epoch, value + 1 / epoch):
                state = "pruned"
                break
        study.tell(done, state, value)
    return points


def records(n: int) -> list[TrialRecord]:
    """Completed trials, none of the rare kind."""
    generator = random.Random(1)
    found = []
    while len(found) < n:
        point = SPACE.sample(generator)
        if point["kind"] != "rare":
            curve = {1: {"loss": loss(point)}}
            found.append(TrialRecord(len(found), {}, point, state="completed", curve=curve))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_up_to_the_bound_it_proposes_what_optuna_proposes(make_study, seed):
    optunas = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
    expected = search(make_study(optunas), 120, seed)
    assert search(make_study(BoundedTPESampler(seed=seed)), 120, seed) == expected
    smaller = search(make_study(BoundedTPESampler(seed=seed, n_ended=60)), 120, seed)
    assert smaller[:60] == expected[:60]
    assert smaller != expected


def test_the_good_ones_are_those_that_optuna_finds(make_study):
    """Also where not all completed, and with so many that no more count as good."""
    sampler = BoundedTPESampler(seed=0)
    study = make_study(sampler)
    for record in records(300):
        record.state = "pruned" if record.number % 12 else "completed"
        study.restore(record, "loss", "min")
    study.ask(300)
    trials = study._optuna.study.get_trials(states=[State.COMPLETE, State.PRUNED])
    below, above = _split_trials(study._optuna.study, trials, 25)
    assert sorted(number for _, number in sampler._good) == [trial.number for trial in below]
    assert sampler._others({trial.number for trial in below}) == (
        [trial.number for trial in above],
        1.0,
    )


def test_beyond_the_bounds_the_others_are_spread_evenly(make_study):
    sampler = BoundedTPESampler(seed=0, n_ended=100, n_running=10)
    study = make_study(sampler)
    for record in records(700):
        study.restore(record, "loss", "min")
    points = [study.ask(number) for number in range(700, 741)]
    good = {number for _, number in sampler._good}
    assert len(good) == 25
    others, share = sampler._others(good)
    ended = [number for number in others if number < 700]
    assert others == sorted(set(others))
    assert not good & set(others)
    assert 60 <= len(ended) <= 75
    assert max(b - a for a, b in pairwise(ended)) <= 40
    assert len(others) - len(ended) == 10  # of the 40 that run beside the last
    assert share == pytest.approx(len(others) / (675 + 40))
    assert len({tuple(point.items()) for point in points}) == 41


def test_a_branch_that_left_the_selection_is_still_known(make_study):
    sampler = BoundedTPESampler(seed=0, n_ended=50)
    study = make_study(sampler)
    found = records(400)
    found[1] = TrialRecord(
        1,
        {},
        {"x": 0.1, "y": 0.1, "kind": "rare", "seldom": 1},
        state="completed",
        curve={1: {"loss": 100.0}},
    )
    for record in found:
        study.restore(record, "loss", "min")
    study.ask(400)
    others, _ = sampler._others({number for _, number in sampler._good})
    assert 1 not in others
    trial = study._optuna.study.ask()
    assert {"seldom", "scale", "shift"} <= set(
        sampler.infer_relative_search_space(study._optuna.study, trial)
    )


def test_a_proposal_costs_the_same_after_some_thousand_trials(make_study):
    seconds = {}
    for n in (400, 4000):
        study = make_study(BoundedTPESampler(seed=0))
        for record in records(n):
            study.restore(record, "loss", "min")
        study.ask(n)  # takes in what was restored
        seconds[n] = statistics.median(seconds_of(study, number) for number in range(n + 1, n + 16))
    assert seconds[4000] < 3 * seconds[400]  # Optuna's own: 10 times


def seconds_of(study: Study, number: int) -> float:
    started = time.thread_time()
    point = study.ask(number)
    spent = time.thread_time() - started
    study.tell(number, "completed", loss(point))
    return spent
