"""What stops trials for good: Optuna's pruners, also after a resume."""

from __future__ import annotations

import random

import pytest

from search_spaces.domains import Float, SearchSpace
from tuning.record.events import TrialRecord
from tuning.record.methods import SCHEDULERS, first_rung
from tuning.search.plan import SearchPlan
from tuning.search.study import Study

SPACE = SearchSpace(name="one", domains={"x": Float(0, 1)})
STOPPING = [name for name, row in SCHEDULERS.items() if name != "none" and not row.freezes]
N_EPOCHS = 9


def make_study(scheduler: str, direction: str = "max", n_known: int = 0) -> Study:
    directions, epochs = (direction,), N_EPOCHS
    return Study(SearchPlan(SPACE, "random", scheduler, directions, epochs=epochs, n_known=n_known))


def run(study: Study, record: TrialRecord, quality: float) -> TrialRecord:
    """One trial, to where it is stopped."""
    for epoch in range(1, N_EPOCHS + 1):
        record.curve[epoch] = {"m": quality * epoch}
        if study.report(record.number, epoch, quality * epoch):
            record.state = "pruned"
            break
    else:
        record.state = "completed"
    study.tell(record.number, record.state, record.value("m", "max"))
    return record


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("scheduler", STOPPING)
def test_a_resumed_search_stops_what_it_would_have_stopped(scheduler, direction):
    """The first sitting ended after 20 trials, while one more ran."""
    assert len(STOPPING) == 3
    generator = random.Random(1)
    qualities = [generator.random() * (1 if direction == "max" else -1) for _ in range(60)]
    whole = make_study(scheduler, direction)
    records = []
    for number, quality in enumerate(qualities[:20]):
        point = whole.ask(number)
        records.append(run(whole, TrialRecord(number, {}, point), quality))
    states = {record.state for record in records}
    assert states == {"completed", "pruned"}
    running = TrialRecord(20, {}, whole.ask(20))
    for epoch in (1, 2, 3, 4):
        running.curve[epoch] = {"m": epoch * 0.5}
        whole.report(20, epoch, epoch * 0.5)
    resumed = make_study(scheduler, direction, n_known=21)
    resumed.restore_all([*records, running], {"m": direction})
    for study in (whole, resumed):
        study.tell(20, "failed")
    for number, quality in enumerate(qualities[21:], start=21):
        ends = [
            run(study, TrialRecord(number, {}, study.ask(number)), quality)
            for study in (whole, resumed)
        ]
        assert ends[0].curve == ends[1].curve


@pytest.mark.parametrize("scheduler", STOPPING)
def test_the_same_search_stops_the_same_trials(scheduler):
    """Hyperband draws brackets from the study's name, which must not be a random one."""
    runs = []
    for _ in range(2):
        study, generator = make_study(scheduler), random.Random(2)
        runs.append(
            [
                run(study, TrialRecord(number, {}, study.ask(number)), generator.random())
                for number in range(30)
            ]
        )
    assert [record.curve for record in runs[0]] == [record.curve for record in runs[1]]


def test_nothing_is_stopped_before_a_third_of_the_epochs():
    assert [first_rung(epochs) for epochs in (1, 3, 4, 9, 10)] == [1, 1, 2, 3, 4]
    study = make_study("asha")
    for number in range(6):
        study.ask(number)
        assert not study.report(number, 1, -number)
        assert not study.report(number, 2, -number)
    assert [study.report(number, 3, -number) for number in range(6)] == [False] + [True] * 5
