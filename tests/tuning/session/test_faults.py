"""Faults that are made to happen for real, beside those of the files named in the table below.

wrong input                          test_hostile.py
a trial raises                       test_sweep.py, test_ray.py, test_tracking.py
loss not finite                      here
CUDA out of memory                   test_loop.py
Ctrl-C, driver or Ray killed         test_ray.py, benchmarks/soak.py
a worker dies, hangs or leaks        test_ray.py
MLflow away, or stopped on the way   test_tracking.py, here
disk full, checkpoint damaged        test_checkpoints.py, test_record.py
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from helpers import RecordingView, sweep_controller
from mlflow import MlflowClient
from records import runs_of, start_server, wait_for

from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.space_checks import prepare_data
from tuning.hosting.assignment import EpochResult
from tuning.record.events import Event, Record, read_history
from tuning.record.resources import Resources
from tuning.session.runner import run_sweep
from tuning.storage.saved_sweeps import save_sweep
from tuning.tracking import follower


def test_a_training_that_diverges_ends_at_once_as_infeasible(workplace, view):
    settings = ["model=squeezenet1_1", "image_size=32", "epochs=5", "freezing=none"]
    settings += ["learning_rate=1e30", "warmup_fraction=0"]
    options = {"name": "digits", "engine": "inprocess", "trials": 1, "scheduler": "none"}
    sweep = resolve(SweepOptions(space="digits", settings=settings, **options))
    summary = run_sweep(prepare_data(sweep)[0], view).summary
    assert summary["trials"]["infeasible"] == 1
    assert summary["best"] is None
    trial = read_history(sweep.folder).trials[0]
    assert trial.curve == {}  # not even the first epoch was trained to its end
    assert "loss is nan in epoch 1" in trial.error or "loss is inf in epoch 1" in trial.error
    assert runs_of(sweep)["0"].info.status == "FAILED"


class ActingView(RecordingView):
    """Does something after some epochs."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        super().__init__()
        self._actions = actions

    def update(self, event: Event) -> None:
        super().update(event)
        n_epochs = sum(event["event"] == "epoch" for event in self.events)
        if event["event"] == "epoch" and n_epochs in self._actions:
            self._actions[n_epochs]()


@pytest.mark.long
@pytest.mark.timeout(240)
def test_an_mlflow_server_that_is_killed_and_comes_back_lacks_nothing(
    toy_sweep, workplace, free_port, monkeypatch
):
    monkeypatch.setattr(follower, "_SECONDS_BETWEEN_RETRIES", 0.2)
    monkeypatch.setattr(follower, "_SECONDS_TO_FLUSH_FAILING", 100.0)  # it takes long to start
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    uri = f"http://127.0.0.1:{free_port}"
    servers = [start_server(free_port, workplace)]

    def stop() -> None:
        os.killpg(servers[-1].pid, signal.SIGKILL)
        servers[-1].wait(30)

    def start() -> None:
        servers.append(start_server(free_port, workplace))

    try:
        wait_for(uri)
        sweep = toy_sweep("seconds=0.3", trials=4, scheduler="none", tracking_uri=uri)
        view = ActingView({6: stop, 10: start})
        result = run_sweep(sweep, view)
        assert result.mlflow_complete
        assert sum("does not take records" in message for message in view.messages) == 1
        runs = runs_of(sweep)
        assert len(runs) == 5
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        client = MlflowClient(tracking_uri=uri)
        for number in range(4):
            history = client.get_metric_history(runs[str(number)].info.run_id, "value")
            assert [metric.step for metric in history] == [1, 2, 3, 4]
    finally:
        stop()


def test_a_trial_fails_when_its_process_dies_again_and_again_without_an_epoch(toy_sweep):
    sweep = toy_sweep(trials=1)
    save_sweep(sweep)
    record = Record(sweep.folder)
    controller = sweep_controller(sweep, record, Resources(1.0, 0.0, 1))
    for epoch in (0, 0, 1, 1):
        assert controller.propose().trial == 0
        assert not controller.exhausted
        if epoch and not record.history.trials[0].curve:
            controller.observe(0, EpochResult(epoch, {"value": 0.5}))
        controller.worker_lost(0)
    assert record.history.trials[0].state == "running"
    assert controller.propose().trial == 0
    controller.worker_lost(0)
    trial = record.history.trials[0]
    assert trial.state == "failed"
    assert trial.error == "its worker process died 3 times without an epoch between"
    assert controller.propose() is None
    assert controller.exhausted
    controller.close()
    record.close()
