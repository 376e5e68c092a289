"""The pruner of `asha` decides as Optuna's SuccessiveHalvingPruner does, also after a restore."""

from __future__ import annotations

import math

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.domains import Float, SearchSpace
from tuning.record.events import TrialRecord
from tuning.search.schedulers import SCHEDULERS, RungPruner, first_rung
from tuning.search.study import Study

# Few different values, so that there are ties.
VALUES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0]), st.floats(-2, 2))


@settings(max_examples=60, deadline=None)
@given(
    reports=st.lists(
        st.tuples(st.integers(0, 11), st.integers(1, 4), st.one_of(VALUES, st.just(math.nan))),
        max_size=120,
    ),
    min_resource=st.integers(1, 4),
    reduction_factor=st.integers(2, 4),
    direction=st.sampled_from(["minimize", "maximize"]),
)
def test_it_decides_as_optunas_pruner_does(reports, min_resource, reduction_factor, direction):
    decisions = []
    for pruner in (
        RungPruner(min_resource, reduction_factor),
        optuna.pruners.SuccessiveHalvingPruner(min_resource, reduction_factor),
    ):
        study = optuna.create_study(direction=direction, pruner=pruner)
        trials = [study.ask() for _ in range(12)]
        steps = [0] * 12
        found = []
        for number, more_steps, value in reports:
            steps[number] += more_steps
            trials[number].report(value, steps[number])
            found.append(trials[number].should_prune())
        decisions.append(found)
    assert decisions[0] == decisions[1]


def make_study(epochs: int, direction: str) -> Study:
    space = SearchSpace(name="one", domains={"x": Float(0, 1)})
    options = {"searcher": "random", "scheduler": "asha", "seed": 0}
    return Study(space, direction=direction, epochs=epochs, **options)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(0, 7), VALUES), max_size=120),
    stop_after=st.integers(0, 120),
    epochs=st.integers(1, 12),
    direction=st.sampled_from(["min", "max"]),
)
def test_a_restored_study_decides_as_if_it_had_never_stopped(values, stop_after, epochs, direction):
    """Also at higher rungs: they are lowered here to come after 1, 3 and 9 epochs."""
    studies = [make_study(epochs, direction), make_study(epochs, direction)]
    for study in studies:
        study._optuna.study.pruner = RungPruner(1, 3)
    points = [studies[0].ask(number) for number in range(8)]
    records = [TrialRecord(number, {}, point) for number, point in enumerate(points)]

    def restore() -> None:
        for record in records:
            studies[1].restore(record, "m", direction)

    for n_reports, (number, value) in enumerate(values):
        if n_reports == stop_after:
            restore()
        record = records[number]
        if record.state != "running":
            continue
        epoch = len(record.curve) + 1
        record.curve[epoch] = {"m": value}
        decisions = {
            study.report(number, epoch, value)
            for study in (studies if n_reports >= stop_after else studies[:1])
        }
        assert len(decisions) == 1
        if decisions == {True} or epoch == epochs:
            record.state = "completed" if epoch == epochs else "pruned"
            for study in studies if n_reports >= stop_after else studies[:1]:
                study.tell(number, record.state, record.value("m", direction))
    if len(values) <= stop_after:
        restore()
    states = [[trial.state for trial in study._optuna.study.get_trials()] for study in studies]
    assert states[0] == states[1]


def test_nothing_is_stopped_before_a_third_of_the_epochs():
    assert [first_rung(epochs) for epochs in (1, 3, 4, 9, 10)] == [1, 1, 2, 3, 4]
    study = make_study(9, "max")
    for number in range(6):
        study.ask(number)
        assert not study.report(number, 1, -number)
        assert not study.report(number, 2, -number)
    assert [study.report(number, 3, -number) for number in range(6)] == [False] + [True] * 5


def test_every_scheduler_makes_a_pruner():
    for make in SCHEDULERS.values():
        assert isinstance(make(5), optuna.pruners.BasePruner)
