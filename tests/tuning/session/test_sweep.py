"""Sweeps from beginning to end, in this process: results, records, faults and resuming."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import TOY_SPACE, InterruptingView, reopened
from toy_space import SPACE

from trainables.errors import InputError
from tuning.after.results import to_csv, trial_rows
from tuning.before_start.options import SweepOptions, resolve
from tuning.record.events import EVENTS_FILE, Record, read_history
from tuning.record.standings import best_trial
from tuning.session.runner import run_sweep
from tuning.session.summary import summarize
from tuning.storage.saved_sweeps import save_sweep
from tuning.storage.stores import trial_key
from tuning.storage.trial_checkpoints import BEST, LAST


def test_a_sweep_finds_a_good_point_and_says_so(toy_sweep, run):
    sweep = toy_sweep(trials=20, scheduler="none")
    result = run(sweep)
    summary = result.summary
    assert summary["trials"] == {"completed": 20, "pruned": 0, "failed": 0, "infeasible": 0}
    assert summary["best"]["value"] > 0.93
    assert abs(summary["best"]["config"]["x"] - 0.3) < 0.1
    assert (sweep.folder / trial_key(summary["best"]["trial"]) / BEST / "state.json").exists()
    assert summary["mlflow"]["parent_run_id"]
    assert summary["best"]["mlflow_run_id"]
    json.dumps(summary)


def test_the_starting_point_is_tried_first_and_conditions_hold(toy_sweep, run):
    sweep = toy_sweep(trials=10)
    run(sweep)
    trials = read_history(sweep.folder).trials
    assert trials[0].point == {"x": 0.5, "kind": "plain"}
    assert list(trials) == list(range(10))
    for trial in trials.values():
        assert ("scale" in trial.point) == (trial.point["kind"] == "scaled")
        assert trial.config.items() >= trial.point.items()
        assert trial.config["epochs"] == 4
        assert trial.config["seed"] == 0


def test_the_same_seed_searches_the_same_points(toy_sweep, run):
    points = []
    for name in ("one", "two"):
        sweep = toy_sweep(name=name, trials=12, seed=3)
        run(sweep)
        points.append([trial.point for trial in read_history(sweep.folder).trials.values()])
    assert points[0] == points[1]


def test_early_stopping_spares_epochs(toy_sweep, run):
    epochs = {}
    for scheduler in ("asha", "none"):
        sweep = toy_sweep("epochs=9", name=scheduler, trials=15, scheduler=scheduler)
        summary = run(sweep).summary
        trials = read_history(sweep.folder).trials.values()
        epochs[scheduler] = sum(len(trial.curve) for trial in trials)
        pruned = [trial for trial in trials if trial.state == "pruned"]
        assert bool(pruned) == (scheduler == "asha")
        assert all(3 <= len(trial.curve) < 9 for trial in pruned)  # 3 is a third of the epochs
        assert sum(summary["trials"].values()) == 15
    assert epochs["asha"] < 0.7 * epochs["none"]


def test_a_grid_is_searched_whole_and_once(toy_sweep, run):
    sweep = toy_sweep(trials=100, searcher="grid", scheduler="none")
    run(sweep)
    points = [json.dumps(trial.point) for trial in read_history(sweep.folder).trials.values()]
    assert sorted(points) == sorted(json.dumps(point) for point in SPACE.grid())
    assert points[0] == json.dumps(SPACE.starting_points[0])


def test_a_grid_begins_with_the_defaults_where_it_has_them_not(toy_sweep, run):
    sweep = toy_sweep(trials=100, searcher="grid", scheduler="none")
    away = replace(sweep.space, starting_points=[{"x": 0.55, "kind": "plain"}, {"x": 0.1}])
    run(replace(sweep, space=away))
    points = [trial.point for trial in read_history(sweep.folder).trials.values()]
    assert points[0] == {"x": 0.55, "kind": "plain"}
    assert sorted(map(json.dumps, points[1:])) == sorted(map(json.dumps, SPACE.grid()))
    again = reopened(sweep, trials=100)
    assert sum(run(again).summary["trials"].values()) == len(points)


def test_random_search_is_random(toy_sweep, run):
    sweep = toy_sweep(trials=8, searcher="random")
    run(sweep)
    points = [trial.point["x"] for trial in read_history(sweep.folder).trials.values()]
    assert len(set(points)) == 8


def test_only_the_best_checkpoints_stay(toy_sweep, run):
    sweep = toy_sweep(trials=12, keep_checkpoints=2, scheduler="none", searcher="random")
    run(sweep)
    history = read_history(sweep.folder)
    values = {number: trial.value("value", "max") for number, trial in history.trials.items()}
    best_two = sorted(values, key=lambda number: -values[number])[:2]
    kept = [n for n in values if (sweep.folder / trial_key(n) / BEST).exists()]
    assert sorted(kept) == sorted(best_two)
    assert not any((sweep.folder / trial_key(n) / LAST).exists() for n in values)


def test_less_is_better_where_the_user_says_so(toy_sweep, run):
    sweep = toy_sweep(trials=15, metric="x:min", scheduler="none")
    summary = run(sweep).summary
    trials = read_history(sweep.folder).trials.values()
    assert summary["best"]["value"] == min(trial.point["x"] for trial in trials)


@pytest.mark.parametrize(("fault", "state"), [("raise", "failed"), ("diverge", "infeasible")])
def test_a_failing_trial_does_not_take_the_sweep_down(toy_sweep, run, view, fault, state):
    sweep = toy_sweep(f"fault={fault}", trials=15, searcher="random", scheduler="none")
    result = run(sweep)
    trials = read_history(sweep.folder).trials.values()
    wrong = [trial for trial in trials if trial.point["x"] > 0.5]
    assert wrong
    assert {trial.state for trial in wrong} == {state}
    assert {len(trial.curve) for trial in wrong} == {1}
    assert all("epoch 2" in trial.error for trial in wrong)
    assert result.summary["best"]["config"]["x"] <= 0.5
    assert not any((sweep.folder / trial_key(t.number) / BEST).exists() for t in wrong)
    if state == "failed":
        assert "Traceback" in wrong[0].error
        assert "toy_space.py" in wrong[0].error


def test_too_many_failures_end_the_sweep(toy_sweep, run):
    sweep = toy_sweep("fault=raise", "fault_beyond=-1", trials=15, max_failures=2, scheduler="none")
    result = run(sweep)
    assert result.has_failed
    assert result.summary["trials"]["failed"] == 3
    assert result.summary["best"] is None


def test_a_time_budget_ends_the_sweep(toy_sweep, run):
    sweep = toy_sweep("seconds=0.2", trials=1000, time_budget_seconds=3, scheduler="none")
    result = run(sweep)
    counts = Counter(trial.state for trial in read_history(sweep.folder).trials.values())
    assert 0 < sum(counts.values()) <= 5  # a trial takes 0.8 s
    assert counts["pruned"] <= 1  # the one that ran when the time was up
    assert set(counts) <= {"completed", "pruned"}
    assert not result.interrupted


def test_a_wrong_metric_fails_trials_with_what_there_is(toy_sweep, run):
    sweep = toy_sweep(trials=2, metric="valeu:max")
    result = run(sweep)
    assert result.summary["trials"]["failed"] == 2
    error = read_history(sweep.folder).trials[0].error
    assert error == "metric 'valeu' is not in the epoch report; reported: pid, seconds, value, x"


def test_an_interrupted_sweep_is_resumed_without_losing_or_repeating_anything(toy_sweep, run):
    sweep = toy_sweep(trials=8, scheduler="none")
    first = run_sweep(sweep, InterruptingView(after_epochs=10))
    assert first.interrupted
    assert first.summary["trials"] | {"interrupted": 1} == first.summary["trials"]
    before = read_history(sweep.folder).trials
    assert [trial.state for trial in before.values()] == ["completed"] * 2 + ["interrupted"]

    second = run(reopened(sweep))
    assert not second.interrupted
    assert second.summary["trials"] == {"completed": 8, "pruned": 0, "failed": 0, "infeasible": 0}
    after = read_history(sweep.folder).trials
    assert [after[number].curve for number in (0, 1)] == [before[n].curve for n in (0, 1)]
    assert after[2].point == before[2].point
    assert all(sorted(trial.curve) == [1, 2, 3, 4] for trial in after.values())
    # what follows is what the searcher would have proposed without the interruption: all of it new
    assert len({json.dumps(trial.point) for trial in after.values()}) == 8
    assert second.summary["mlflow"] == first.summary["mlflow"]


def test_a_resumed_trial_goes_on_from_its_checkpoint(toy_sweep, run):
    sweep = toy_sweep(trials=1)
    run_sweep(sweep, InterruptingView(after_epochs=3))
    (sweep.folder / trial_key(0) / BEST / "mark").touch()
    lines_before = (sweep.folder / EVENTS_FILE).read_text().count('"epoch", ')
    run(reopened(sweep))
    lines_after = (sweep.folder / EVENTS_FILE).read_text().count('"epoch", ')
    assert lines_after - lines_before == 1  # only the fourth epoch was trained


def test_a_damaged_checkpoint_costs_its_epochs_and_no_more(toy_sweep, run):
    sweep = toy_sweep(trials=1)
    run_sweep(sweep, InterruptingView(after_epochs=3))
    best = sweep.folder / trial_key(0) / BEST
    (best / "state.json").write_text("{")
    assert run(reopened(sweep)).summary["trials"]["completed"] == 1
    assert sorted(read_history(sweep.folder).trials[0].curve) == [1, 2, 3, 4]
    assert json.loads((best / "state.json").read_text()) == {"epoch": 4}


def test_a_full_disk_is_told_and_does_not_end_a_trial(toy_sweep, run, view):
    sweep = toy_sweep("fault=full", trials=1)
    summary = run(sweep).summary
    assert summary["trials"]["completed"] == 1
    assert summary["best"]["checkpoint"] is None
    notes = [event["note"] for event in view.events if event["event"] == "epoch"]
    assert len(notes) == 4
    assert all("was not written: [Errno 28] No space left" in note for note in notes)
    assert str(sweep.folder / trial_key(0)) in notes[0]


def test_a_finished_sweep_can_be_given_more_trials(toy_sweep, run):
    sweep = toy_sweep(trials=3)
    run(sweep)
    summary = run(reopened(sweep, trials=5)).summary
    assert sum(summary["trials"].values()) == 5


def test_a_record_cut_short_by_a_crash_is_read_up_to_there(toy_sweep, run):
    sweep = toy_sweep(trials=3)
    run(sweep)
    path = sweep.folder / EVENTS_FILE
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert len(read_history(sweep.folder).trials) == 3
    Record(sweep.folder).close()
    assert path.read_text() == whole[: whole[:-20].rfind("\n") + 1]


def test_a_second_driver_is_refused(toy_sweep, run, monkeypatch):
    sweep = toy_sweep(trials=1)
    refusals = []

    class Rival(InterruptingView):
        def update(self, event):
            if event["event"] == "epoch" and not refusals:
                with pytest.raises(InputError, match="is being run by process") as caught:
                    run_sweep(reopened(sweep), Rival(0))
                refusals.append(str(caught.value))

    run_sweep(sweep, Rival(0))
    assert len(refusals) == 1


def test_the_summary_has_what_is_promised(toy_sweep, run):
    sweep = toy_sweep(trials=2)
    run(sweep)
    summary = summarize(sweep, read_history(sweep.folder))
    assert list(summary) == [
        "sweep",
        "space",
        "task",
        "metric",
        "mode",
        "trials",
        "best",
        "mlflow",
        "folder",
        "wall_seconds",
        "ended_by",
        "ended_because",
        "confirmed",
    ]
    assert list(summary["best"]) == [
        "trial",
        "config",
        "value",
        "checkpoint",
        "mlflow_run_id",
        "confirmed",
    ]
    assert list(summary["mlflow"]) == ["tracking_uri", "experiment", "parent_run_id"]


def test_rows_and_csv(toy_sweep, run):
    sweep = toy_sweep(trials=3)
    run(sweep)
    rows = trial_rows(sweep, read_history(sweep.folder))
    assert [row["trial"] for row in rows] == [0, 1, 2]
    lines = to_csv(rows).splitlines()
    assert lines[0].startswith("trial,state,value,best_epoch,epochs,")
    assert len(lines) == 4


def test_no_best_before_the_first_epoch(toy_sweep):
    sweep = toy_sweep()
    save_sweep(sweep)
    with pytest.raises(InputError, match="no trial has reached a value"):
        best_trial(sweep, read_history(sweep.folder))


def test_a_sweep_survives_being_saved_and_moved(toy_sweep, run, tmp_path):
    sweep = toy_sweep(trials=2)
    run(sweep)
    moved = tmp_path / "elsewhere"
    sweep.folder.rename(moved)
    again = reopened(type(sweep)(**{**vars(sweep), "folder": moved}))
    assert again.space == sweep.space
    assert again.folder == moved
    assert again.train_file == moved / "toy_space.py"
    assert run(reopened(again, trials=3)).summary["trials"]["completed"] >= 1


def test_a_resumed_sweep_keeps_its_own_copy_of_the_users_code(toy_sweep):
    sweep = toy_sweep()
    save_sweep(sweep)
    assert (sweep.folder / "toy_space.py").read_text() == Path(TOY_SPACE).read_text()


def test_a_name_is_used_once(toy_sweep):
    save_sweep(toy_sweep())
    with pytest.raises(InputError, match="exists already"):
        toy_sweep()


def test_settings_are_typed_and_override_domains(workplace):
    options = SweepOptions(
        space="digits", settings=["learning_rate=1e-4", "freezing=first_k", "epochs=3"]
    )
    sweep = resolve(options)
    assert sweep.space.fixed["learning_rate"] == 1e-4
    assert "learning_rate" not in sweep.space.domains
    assert sweep.max_epochs() == 3
    assert "frozen_blocks" in sweep.space.sample(__import__("random").Random(0))
