"""What MLflow holds after a sweep: every run once, whatever happened on the way."""

from __future__ import annotations

import os
import signal
import time

import pytest
from helpers import InterruptingView, reopened
from mlflow import MlflowClient
from records import runs_of, start_server, wait_for

from tuning.record.events import Record, read_history
from tuning.session.runner import run_sweep
from tuning.storage.saved_sweeps import save_sweep
from tuning.tracking import follower
from tuning.tracking.mlflow_client import STATE_TAG
from tuning.tracking.mlflow_runs import make_tracker


def test_one_parent_and_one_run_per_trial_with_the_whole_curve(toy_sweep, run):
    sweep = toy_sweep("epochs=9", trials=8)
    summary = run(sweep).summary
    runs = runs_of(sweep)
    parent = runs.pop("parent")
    assert parent.info.run_id == summary["mlflow"]["parent_run_id"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["searcher"] == "curves"
    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    trials = read_history(sweep.folder).trials
    assert len(runs) == len(trials) == 8
    for number, trial in trials.items():
        found = runs[str(number)]
        assert found.info.run_id == trial.mlflow_run_id
        assert found.info.status == "FINISHED"
        assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found.data.tags[STATE_TAG] == trial.state
        assert found.data.tags["version.torch"]
        assert "git_commit" in found.data.tags
        assert found.data.params == {name: str(value) for name, value in trial.config.items()}
        history = client.get_metric_history(found.info.run_id, "value")
        assert [metric.step for metric in history] == sorted(trial.curve)
        assert [metric.value for metric in history] == [
            trial.curve[epoch]["value"] for epoch in sorted(trial.curve)
        ]


@pytest.mark.parametrize(("fault", "state"), [("raise", "failed"), ("diverge", "infeasible")])
def test_failures_are_told_with_their_reason(toy_sweep, run, fault, state):
    sweep = toy_sweep(f"fault={fault}", "fault_beyond=-1", trials=2, scheduler="none")
    run(sweep)
    found = runs_of(sweep)["0"]
    assert found.info.status == "FAILED"
    assert found.data.tags[STATE_TAG] == state
    assert "epoch 2" in found.data.tags["thaw.error"]


def test_resuming_doubles_no_run_and_no_epoch(toy_sweep, run):
    sweep = toy_sweep(trials=5, scheduler="none")
    run_sweep(sweep, InterruptingView(after_epochs=6))
    assert runs_of(sweep)["parent"].info.status == "KILLED"
    assert runs_of(sweep)["1"].info.status == "KILLED"
    run(reopened(sweep))
    runs = runs_of(sweep)
    assert len(runs) == 6
    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    for number in range(5):
        found = runs[str(number)]
        assert found.info.status == "FINISHED"
        history = client.get_metric_history(found.info.run_id, "value")
        assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_a_lost_record_of_a_run_finds_it_again(toy_sweep, run):
    """A driver killed between making a run and noting it must not make another."""
    sweep = toy_sweep(trials=2)
    run(sweep)
    path = sweep.folder / "events.jsonl"
    lines = [
        line for line in path.read_text().splitlines(keepends=True) if "mlflow_run" not in line
    ]
    path.write_text("".join(lines))
    run(reopened(sweep, trials=3))
    assert len(runs_of(sweep)) == 4


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(follower, "_SECONDS_BETWEEN_RETRIES", 0.2)
    monkeypatch.setattr(follower, "_SECONDS_TO_FLUSH_FAILING", 2.0)
    monkeypatch.setattr(follower, "_SECONDS_WAITED_WITHOUT_A_WORD", 0.5)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@pytest.mark.long
@pytest.mark.timeout(180)
def test_training_goes_on_while_mlflow_is_away_and_resume_writes_the_rest(
    toy_sweep, run, view, impatient, workplace, free_port
):
    uri = f"http://127.0.0.1:{free_port}"
    sweep = toy_sweep(trials=3, scheduler="none", tracking_uri=uri)
    started = time.monotonic()
    result = run(sweep)
    assert time.monotonic() - started < 30
    assert result.summary["trials"]["completed"] == 3
    assert not result.mlflow_complete
    [told] = [message for message in view.messages if "does not take records" in message]
    assert told.startswith(f"MLflow at {uri} does not take records (NewConnectionError(")
    assert f"waiting for MLflow at {uri} to take what is left …" in view.messages
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    server = start_server(free_port, workplace)
    try:
        wait_for(uri)
        again = run(reopened(sweep))
        assert again.mlflow_complete
        assert len(runs_of(sweep)) == 4
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def test_a_trial_that_changed_the_packing_says_so(toy_sweep):
    sweep = toy_sweep(trials=1)
    save_sweep(sweep)
    record = Record(sweep.folder)
    tracker = make_tracker(sweep, record, print)
    tracker.start()
    record.append("trial_started", trial=0, point={}, config={}, gpus=0.25)
    record.append("packing", trial=0, trials_per_gpu=3, reason="it ran out of memory")
    record.append("trial_ended", trial=0, state="completed", error=None)
    record.append("sweep_ended", status="FINISHED", wall_seconds=1.0)
    assert tracker.close()
    record.close()
    tags = runs_of(sweep)["0"].data.tags
    assert tags["thaw.gpus"] == "0.25"
    assert tags["thaw.packing"] == "3 trials share a GPU from now on: it ran out of memory"
