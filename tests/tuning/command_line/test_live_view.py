"""What people are told while a sweep runs: how far it is, what is best, how long it will take."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tuning.command_line.live_view import PlainView
from tuning.record.events import SweepHistory


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tuning.command_line.live_view.time", clock)
    return clock


@pytest.fixture
def lines():
    """Of a view of ``toy_sweep(**options)`` that is told of ``events``: (seconds, event)."""

    def tell(sweep, clock, events, *, before=()) -> list[str]:
        history, out = SweepHistory(), io.StringIO()
        for event in before:
            history.apply(event)
        view = PlainView(Console(file=out, width=200))
        view.begin(sweep, history, sweep.trials)
        for clock.now, event in events:
            history.apply(event)
            view.update(event)
        return out.getvalue().splitlines()

    return tell


def started(trial: int) -> dict:
    config = {"x": 0.5, "kind": "plain"}
    return {
        "event": "trial_started",
        "trial": trial,
        "point": config,
        "config": config,
        "time": 0.0,
    }


def epoch(trial: int, number: int, value: float) -> dict:
    return {"event": "epoch", "trial": trial, "epoch": number, "metrics": {"value": value}}


def ended(trial: int, state: str) -> dict:
    return {"event": "trial_ended", "trial": trial, "state": state, "error": None, "time": 0.0}


def test_a_frozen_trial_is_no_done_one_but_may_be_the_best(toy_sweep, clock, lines):
    sweep = toy_sweep("epochs=9", trials=12, scheduler="freeze-thaw")
    events = [
        *((0, started(t)) for t in (0, 1, 2)),
        (2, epoch(0, 3, 0.8)),
        (2, ended(0, "frozen")),
        (4, epoch(1, 3, 0.4)),
        (4, ended(1, "pruned")),
        (6, started(0)),
        (6, ended(2, "interrupted")),
        (8, ended(0, "infeasible")),
    ]
    said = [line for line in lines(sweep, clock, events) if "trials done" in line]
    assert "0/12 trials done, 2 running, 1 frozen, best value 0.8000 (trial 0)" in said[0]
    assert "about 22 s left" in said[0]  # 2 s for the first of 12
    assert "1/12 trials done, 1 pruned, 1 running, 1 frozen, best value 0.8000" in said[1]
    assert "1/12 trials done, 1 pruned, 1 running, 1 interrupted" in said[2]
    # What diverged after it went on is not the best any more.
    assert "1 infeasible, 1 interrupted, best value 0.4000 (trial 1)" in said[3]


def test_the_pace_is_that_of_this_sitting(toy_sweep, clock, lines):
    sweep = toy_sweep(trials=10)
    before = [event for trial in range(8) for event in (started(trial), ended(trial, "failed"))]
    events = [(0, started(8)), (30, epoch(8, 4, 0.9)), (30, ended(8, "completed"))]
    [said] = [line for line in lines(sweep, clock, events, before=before) if "trials done" in line]
    assert "9/10 trials done, 8 failed" in said
    assert "about 30 s left" in said


def test_the_time_budget_counts_what_earlier_sittings_took(toy_sweep, clock, lines):
    sweep = toy_sweep(trials=1000, time_budget_seconds=100)
    before = [
        {"event": "sitting_started", "time": 0.0, "moved": {}, "fingerprints": {}, "space": None},
        {"event": "sweep_ended", "wall_seconds": 60.0, "ended_by": "x", "ended_because": "y"},
    ]
    events = [(0, started(0)), (30, epoch(0, 4, 0.9)), (30, ended(0, "completed"))]
    [said] = [line for line in lines(sweep, clock, events, before=before) if "trials done" in line]
    assert re.search("about 10 s left", said)
