"""The bounded sampler: Optuna's own proposals up to the bound, and a flat cost beyond it."""

from __future__ import annotations

import random
import statistics
import time
from itertools import pairwise

import optuna
import pytest

from search_spaces.domains import Choice, Float, Int, SearchSpace
from tuning import searcher
from tuning.bounded_tpe import BoundedTPESampler
from tuning.record import TrialRecord
from tuning.searcher import Study

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
        monkeypatch.setitem(searcher.SEARCHERS, "tpe", lambda seed: sampler)
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


def selection_of(sampler: BoundedTPESampler, study: Study) -> list[optuna.trial.FrozenTrial]:
    """What the next trial would be proposed from."""
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    return sampler._selection(study._study, trial)._get_trials()


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


def test_the_best_and_what_runs_are_always_learned_from(make_study):
    sampler = BoundedTPESampler(seed=0, n_ended=100, n_running=10)
    study = make_study(sampler)
    for record in records(700):
        study.restore(record, "loss", "min")
    points = [study.ask(number) for number in range(700, 708)]
    seen = selection_of(sampler, study)
    assert [trial.number for trial in seen] == sorted({trial.number for trial in seen})
    ended = [trial for trial in seen if trial.value is not None]
    best = sorted(study._study.get_trials(states=[optuna.trial.TrialState.COMPLETE]), key=by_value)
    assert {trial.number for trial in best[:25]} <= {trial.number for trial in ended}
    assert 75 <= len(ended) <= 100
    assert [trial.number for trial in seen if trial.value is None] == list(range(700, 708))
    # evenly spread over all of them
    gaps = [b.number - a.number for a, b in pairwise(ended)]
    assert max(gaps) <= 10
    assert len({tuple(point.items()) for point in points}) == 8


def by_value(trial):
    return trial.value, trial.number


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
    selected = selection_of(sampler, study)
    assert not any("seldom" in trial.params for trial in selected)
    trial = study._study.ask()
    assert {"seldom", "scale", "shift"} <= set(
        sampler.infer_relative_search_space(study._study, trial)
    )


def test_many_running_trials_are_thinned_out(make_study):
    sampler = BoundedTPESampler(seed=0, n_running=20)
    study = make_study(sampler)
    for record in records(30):
        study.restore(record, "loss", "min")
    points = [study.ask(number) for number in range(30, 130)]
    seen = selection_of(sampler, study)
    assert sum(trial.value is None for trial in seen) == 20
    assert len({tuple(point.items()) for point in points}) == 100


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
