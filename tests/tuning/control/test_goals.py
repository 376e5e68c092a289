"""What ends a sweep: each budget and goal, whichever comes first, over all sittings."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from helpers import TOY_SPACE, InterruptingView, reopened, sweep_controller
from hypothesis import given
from hypothesis import strategies as st

from trainables.errors import InputError
from tuning.before_start.options import SweepOptions, resolve
from tuning.command_line.cli import main
from tuning.hosting.assignment import EpochResult, Outcome
from tuning.record.events import EVENTS_FILE, Record, read_history
from tuning.record.resources import Resources
from tuning.record.time_spent import Spent
from tuning.session.runner import run_sweep
from tuning.storage.saved_sweeps import save_sweep


def test_a_sweep_that_tries_all_its_trials_says_so(toy_sweep, run):
    summary = run(toy_sweep(trials=2)).summary
    assert (summary["ended_by"], summary["ended_because"]) == ("trials", "its 2 trials are done")
    summary = run(toy_sweep(name="grid", trials=100, searcher="grid", scheduler="none")).summary
    assert summary["ended_because"] == "its 12 trials are done, the whole grid"


@pytest.mark.parametrize(("mode", "target"), [("max", 0.8), ("min", 0.4)])
def test_a_target_ends_the_sweep_at_the_epoch_that_reaches_it(toy_sweep, run, mode, target):
    metric = {"max": "value:max", "min": "x:min"}[mode]
    options = {"metric": metric, "target": target, "searcher": "random", "scheduler": "none"}
    sweep = toy_sweep(trials=50, seed=1, **options)
    summary = run(sweep).summary
    assert summary["ended_by"] == "target"
    assert summary["ended_because"].endswith(f"and the target was {target}")
    trials = list(read_history(sweep.folder).trials.values())
    assert len(trials) < 50
    name = metric.split(":")[0]
    values = [[metrics[name] for metrics in trial.curve.values()] for trial in trials]
    sign = 1 if mode == "max" else -1
    reached = [[sign * value >= sign * target for value in curve] for curve in values]
    assert [any(curve) for curve in reached] == [False] * (len(trials) - 1) + [True]
    assert reached[-1].index(True) == len(reached[-1]) - 1  # no epoch more
    again = run(reopened(sweep)).summary
    assert again["ended_by"] == "target"
    assert again["trials"] == summary["trials"]
    further = run(reopened(sweep, target=2.0 if mode == "max" else -1.0, trials=len(trials) + 2))
    assert further.summary["ended_by"] == "trials"


def test_patience_ends_the_sweep_after_trials_that_brought_nothing(toy_sweep, run):
    sweep = toy_sweep(trials=60, patience=5, searcher="random", scheduler="none")
    summary = run(sweep).summary
    assert summary["ended_by"] == "patience"
    assert summary["ended_because"] == "the best value did not improve for 5 trials"
    values = [trial.value("value", "max") for trial in read_history(sweep.folder).trials.values()]
    assert values.index(max(values)) == len(values) - 6
    raised = run(reopened(sweep, patience=8)).summary
    n_before, n_after = len(values), sum(raised["trials"].values())
    assert n_after >= n_before + 3  # resuming counts on from where it stood


def test_a_time_budget_counts_a_sitting_that_was_killed(toy_sweep, run):
    sweep = toy_sweep("seconds=0.1", trials=1000, time_budget_seconds=60, scheduler="none")
    run_sweep(sweep, InterruptingView(after_epochs=12))
    path = sweep.folder / EVENTS_FILE
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"sweep_ended"' not in line))
    summary = run(reopened(sweep, time_budget_seconds=1.0)).summary
    assert summary["ended_by"] == "time_budget"
    assert summary["ended_because"] == "the time budget of 1 s is spent"
    assert sum(summary["trials"].values()) == 3  # no new one
    assert summary["wall_seconds"] > 1.2


def test_failures_and_interruptions_are_named_too(toy_sweep, run):
    settings = ("fault=raise", "fault_beyond=-1")
    summary = run(toy_sweep(*settings, trials=9, max_failures=1)).summary
    assert summary["ended_by"] == "max_failures"
    assert summary["ended_because"] == "2 trials failed, more than --max-failures 1 allows"
    result = run_sweep(toy_sweep(name="other"), InterruptingView(after_epochs=2))
    assert result.summary["ended_because"] == "it was interrupted"


@given(
    trials=st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 100), st.sampled_from([0.0, 0.25, 1.0, 2.0])),
        min_size=1,
        max_size=12,
    ),
    killed=st.booleans(),
)
def test_gpu_seconds_are_time_times_gpus(trials, killed):
    """Sittings of 200 s, an hour apart; each trial starts and goes on for some time in both."""
    events, wanted = [], 0.0
    for sitting, begin in enumerate((1000.0, 5000.0)):
        events.append({"event": "sitting_started", "time": begin})
        for number, (start, seconds, gpus) in enumerate(trials):
            started = {"event": "trial_started", "trial": number, "gpus": gpus}
            events.append({**started, "time": begin + start})
            ended = {"event": "trial_ended", "trial": number}
            events.append({**ended, "time": begin + start + seconds})
            wanted += seconds * gpus
        if sitting == 1 or not killed:
            events.append({"event": "sweep_ended", "time": begin + 200, "wall_seconds": 200.0})
    spent = Spent()
    for event in sorted(events, key=lambda event: event["time"]):
        spent.apply(event)
    assert spent.gpu_seconds(9000.0) == pytest.approx(wanted)
    assert spent.wall_seconds == pytest.approx(
        400 if not killed else 200 + max(start + seconds for start, seconds, _ in trials)
    )


def test_what_a_killed_sitting_held_is_counted_to_its_last_sign():
    spent = Spent()
    for time, event in (
        (0, {"event": "sitting_started"}),
        (10, {"event": "trial_started", "trial": 0, "gpus": 2.0}),
        (30, {"event": "epoch", "trial": 0}),
        (900, {"event": "sitting_started"}),
    ):
        spent.apply({**event, "time": time})
    assert spent.gpu_seconds(1000) == 40
    spent.apply({"event": "trial_started", "trial": 0, "gpus": 1.0, "time": 1000})
    assert spent.gpu_seconds(1005) == 45


def test_gpu_hours_end_running_trials_at_their_next_epoch(toy_sweep):
    sweep = replace(toy_sweep(trials=4), gpu_hours=1e-9)  # there is no GPU here to ask for
    save_sweep(sweep)
    record = Record(sweep.folder)
    one_gpu = Resources(cpus_per_trial=1, gpus_per_trial=1, concurrency=1, n_gpus=1)
    controller = sweep_controller(sweep, record, one_gpu)
    assert controller.propose() is not None
    assert controller.observe(0, EpochResult(1, {"value": 0.5}))
    assert controller.propose() is None
    assert controller.exhausted
    assert controller.kinds["trial"].ending.because == "the budget of 1e-09 GPU-hours is spent"
    assert record.history.trials[0].state == "pruned"
    controller.close()


def test_what_ended_a_sweep_stays_so_while_running_trials_end(toy_sweep):
    sweep = toy_sweep(patience=1, trials=9)
    save_sweep(sweep)
    record = Record(sweep.folder)
    controller = sweep_controller(sweep, record, Resources(1, 0, concurrency=3))
    for _ in range(3):
        controller.propose()
    for number, value in ((0, 0.5), (1, 0.4)):
        controller.observe(number, EpochResult(1, {"value": value}))
        controller.ended(number, Outcome("completed"))
    assert controller.kinds["trial"].ending.by == "patience"
    assert controller.observe(2, EpochResult(1, {"value": 0.9}))  # better, and too late
    assert controller.kinds["trial"].ending.by == "patience"
    assert controller.exhausted
    controller.close()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--patience", "0", "--patience = 0: must be at least 1"),
        ("--target", "nan", "--target = nan: must be finite"),
        ("--gpu-hours", "0", "--gpu-hours = 0: must be greater than 0"),
        ("--gpu-hours", "1", "--gpu-hours = 1: trials get no GPU here"),
    ],
)
def test_wrong_goals_are_refused_before_anything_starts(
    workplace, monkeypatch, capsys, option, value, message
):
    arguments = ["sweep", TOY_SPACE, "--metric", "value:max", "--gpus-per-trial", "0"]
    monkeypatch.setattr(sys, "argv", ["thaw", *arguments, option, value])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (workplace / "sweeps").exists()


def test_resume_raises_goals_on_the_command_line(workplace, monkeypatch, capfd):
    def thaw(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["thaw", *arguments, "--json"])
        capfd.readouterr()
        main()
        return json.loads(capfd.readouterr().out)

    options = ("--engine", "inprocess", "--metric", "value:max", "--name", "toy")
    first = thaw("sweep", TOY_SPACE, *options, "--trials", "4", "--target", "0.1")
    assert first["ended_by"] == "target"
    second = thaw("resume", "toy", "--target", "5")
    assert second["ended_by"] == "trials"
    assert sum(second["trials"].values()) == 4
    third = thaw("resume", "toy", "--trials", "40", "--patience", "2")
    assert third["ended_by"] == "patience"


def test_the_goals_are_kept_with_the_sweep(toy_sweep):
    sweep = toy_sweep(target=0.0, patience=3)
    save_sweep(sweep)
    again = reopened(sweep)
    assert (again.target, again.patience, again.gpu_hours) == (0.0, 3, None)
    with pytest.raises(InputError, match="--patience"):
        resolve(SweepOptions(space=TOY_SPACE, metric="value:max", patience=-1))
