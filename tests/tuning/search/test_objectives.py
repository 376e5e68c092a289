"""Several objectives: what is told, stopped, ranked and shown."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from helpers import OWN, TOY_SPACE, reopened
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study._multi_objective import _is_pareto_front
from optuna.trial import TrialState as State
from records import study_of

from trainables.errors import InputError
from tuning.after.results import trial_rows
from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.spaces import load_space
from tuning.command_line.tables import best_table, sweep_report, trials_table
from tuning.record.events import TrialRecord, read_history
from tuning.record.methods import OF_ONE_OBJECTIVE, SEARCHERS
from tuning.record.ranking import pareto_front
from tuning.search.plan import SearchPlan
from tuning.search.samplers import search_notes
from tuning.search.study import Study
from tuning.session.summary import describe_best

BOTH = {"metric": ["value:max", "x:min"]}
SEVERAL = sorted(set(SEARCHERS) - set(OF_ONE_OBJECTIVE))


def test_the_command_of_the_documentation_is_understood(workplace):
    sweep = resolve(SweepOptions(space="digits", metric=["val_accuracy", "seconds_per_epoch:min"]))
    assert sweep.objectives == {"val_accuracy": "max", "seconds": "min"}
    assert sweep.space.fixed["monitor"] == "val_accuracy"
    own = resolve(SweepOptions(space=TOY_SPACE, metric="seconds_per_epoch:min"))
    assert own.objectives == {"seconds_per_epoch": "min"}


def test_a_sweep_by_two_metrics_shows_its_pareto_front(toy_sweep, run, capsys):
    sweep = toy_sweep("epochs=6", trials=14, **BOTH)
    result = run(sweep)
    history = read_history(sweep.folder)
    document = describe_best(reopened(sweep), history)
    assert document["pareto_front"] == result.summary["pareto_front"]
    completed = [t for t in history.trials.values() if t.state == "completed"]
    assert any(trial.state == "pruned" for trial in history.trials.values())
    front = {trial["trial"]: trial["values"] for trial in document["pareto_front"]}
    for trial in completed:
        value, x = trial.values(sweep.objectives)
        beaten = any(
            values["value"] >= value
            and values["x"] <= x
            and (values["value"], values["x"]) != (value, x)
            for values in front.values()
        )
        assert (trial.number in front) != beaten
    # the first alone says which is best
    assert document["trial"] == max(completed, key=lambda t: t.values(sweep.objectives)[0]).number
    assert document["value"] == document["values"]["value"]
    json.dumps(result.summary)
    sweep_report(sweep, result)
    assert "Pareto front" in capsys.readouterr().out
    best_table(sweep, document)
    assert "Pareto front" in capsys.readouterr().out
    trials_table(sweep, trial_rows(sweep, history))
    assert "value" in capsys.readouterr().out
    note = "freeze-thaw stops trials by value alone"
    assert any(note in said for said in search_notes(sweep))
    few = toy_sweep(name="few", trials=2, **BOTH)
    assert not any(note in said for said in search_notes(few))  # they are too few to stop any


def test_the_study_has_a_value_for_each_objective(toy_sweep, run):
    sweep = toy_sweep("epochs=6", trials=12, **BOTH)
    run(sweep)
    study = study_of(sweep)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["value", "x"]
    records = read_history(sweep.folder).trials
    assert len(study.trials) == 12
    for trial in study.trials:
        record = records[trial.number]
        if record.state == "completed":
            assert trial.values == record.values(sweep.objectives)
        else:
            assert trial.state == State.PRUNED
            assert trial.values is None
    front = pareto_front(records, sweep.objectives)
    assert {trial.number for trial in front} == {trial.number for trial in study.best_trials}


def test_a_further_value_is_that_of_the_best_epoch_of_the_first():
    curve = {1: {"a": 0.1, "s": 5.0}, 2: {"a": 0.9, "s": 7.0}, 3: {"a": 0.5, "s": 1.0}}
    trial = TrialRecord(0, {}, {}, curve=curve)
    assert trial.values({"a": "max", "s": "min"}) == [0.9, 7.0]
    assert trial.values({"a": "max", "missing": "min"}) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=30))
def test_the_front_is_the_one_that_optuna_finds(points):
    import numpy as np

    objectives = {"a": "max", "b": "min", "c": "min"}
    trials = {
        number: TrialRecord(
            number,
            {},
            {},
            state="completed",
            curve={1: dict(zip("abc", map(float, point), strict=True))},
        )
        for number, point in enumerate(points)
    }
    found = {trial.number for trial in pareto_front(trials, objectives)}
    losses = np.array([[-a, b, c] for a, b, c in points], dtype=float).reshape(-1, 3)
    on_front = _is_pareto_front(losses, assume_unique_lexsorted=False)
    assert found == set(np.flatnonzero(on_front).tolist())


def search(study: Study, n_trials: int) -> list[dict]:
    generator = random.Random(0)
    points = []
    for number in range(n_trials):
        points.append(study.ask(number))
        state = generator.choice(["completed", "completed", "infeasible", "failed"])
        for epoch in (1, 2, 3):
            if study.report(number, epoch, generator.random()):
                state = "pruned"
                break
        values = () if state != "completed" else (generator.random(), len(points[-1]))
        study.tell(number, state, *values)
    return points


@pytest.mark.timeout(400)
@pytest.mark.parametrize("searcher", SEVERAL)
def test_every_sampler_of_several_objectives_takes_all_ends(searcher):
    assert len(SEVERAL) == 7
    space = load_space("text_csv").space
    plan = SearchPlan(space, searcher, "asha", directions=("max", "min"), epochs=4, seed=1)
    studies = [Study(plan), Study(plan)]
    n_trials = 24 if searcher == "gp" else 60
    points = search(studies[0], n_trials)
    for point in points:
        assert all(space.domains[name].contains(value) for name, value in point.items())
    states = {trial.state for trial in studies[0]._optuna.study.get_trials()}
    assert states == {State.COMPLETE, State.PRUNED, State.FAIL}
    if searcher != "gp":
        assert search(studies[1], n_trials) == points


def test_a_resumed_search_of_several_objectives_stops_alike():
    space = load_space("digits").space
    objectives = {"a": "max", "b": "min"}
    plan = SearchPlan(space, "nsga2", "asha", directions=("max", "min"), epochs=6, seed=1)
    studies = [Study(plan), Study(replace(plan, n_known=12))]
    records = []
    for number in range(12):
        point = studies[0].ask(number)
        record = TrialRecord(number, {}, point, started=float(number), ended=number + 0.5)
        record.state = "completed"
        for epoch in range(1, 7):
            record.curve[epoch] = {"a": number % 5 + epoch / 10, "b": float(len(point))}
            if studies[0].report(number, epoch, record.curve[epoch]["a"]):
                record.state = "pruned"
                break
        values = record.values(objectives)
        studies[0].tell(number, record.state, *values)
        records.append(record)
    assert {record.state for record in records} == {"completed", "pruned"}
    studies[1].restore_all(records, objectives)
    point = studies[1].ask(12)
    assert point not in [record.point for record in records]
    studies[0].ask(12)
    for epoch in (1, 2, 3):
        assert len({study.report(12, epoch, 2.5) for study in studies}) == 1
    tpe = Study(replace(plan, searcher="tpe", n_known=12))
    tpe.restore_all(records, objectives)
    assert [t.values for t in tpe._optuna.study.get_trials()] == [
        t.values for t in studies[0]._optuna.study.get_trials(states=[State.COMPLETE, State.PRUNED])
    ]
    assert tpe.ask(12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": ["value:max", "value:max"]}, "--metric 'value:max': given twice"),
        ({"metric": ["value:max", "x"]}, "say which way is better: x:max or x:min"),
        (
            {"metric": ["value:max", "x:min"], "searcher": "cmaes"},
            "--searcher cmaes: searches by one metric, and 2 are given; valid for several: tpe",
        ),
        (
            {"metric": ["value:max", "x:min"], "searcher": f"{OWN}:OfOneObjective"},
            "it can not propose a point of search space toy for 2 objectives: ValueError: If the",
        ),
    ],
)
def test_what_can_not_be_searched_by_is_refused(workplace, options, message):
    with pytest.raises(InputError, match=message):
        resolve(SweepOptions(space=TOY_SPACE, **options))


def test_a_training_that_does_not_measure_its_epochs_has_them_measured(toy_sweep, run):
    sweep = toy_sweep(
        "seconds=0.05", trials=2, metric=["value:max", "seconds:min"], scheduler="none"
    )
    run(sweep)
    history = read_history(sweep.folder)
    for trial in history.trials.values():
        assert all(0.05 <= metrics["seconds"] < 5 for metrics in trial.curve.values())
    rows = trial_rows(sweep, history)
    assert all(0.2 <= row["training_seconds"] < 20 for row in rows)  # four epochs


def test_a_metric_that_is_not_reported_fails_the_trial_with_the_names(toy_sweep, run):
    sweep = toy_sweep(trials=1, metric=["value:max", "speed:max"])
    run(sweep)
    trial = read_history(sweep.folder).trials[0]
    assert trial.state == "failed"
    assert (
        trial.error == "metric 'speed' is not in the epoch report; reported: pid, seconds, value, x"
    )
