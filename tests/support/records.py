"""What MLflow, Optuna and the record hold of a sweep, for tests to look at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from urllib.request import urlopen

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState as State

from tuning.record.events import (
    TrialRecord,
    read_history,
)
from tuning.search.study_storage import JOURNAL_FILE, open_storage
from tuning.tracking.mlflow_client import TRIAL_TAG


def study_of(sweep) -> optuna.Study:
    url = sweep.storage or f"journal://{sweep.folder / JOURNAL_FILE}"
    return optuna.load_study(study_name=sweep.name, storage=open_storage(url, "--storage"))


def check_mirror(sweep) -> list[optuna.trial.FrozenTrial]:
    """The study's trials, which must be those of the record, each once."""
    records = read_history(sweep.folder).trials
    trials = study_of(sweep).trials
    assert [trial.user_attrs["thaw.trial"] for trial in trials] == sorted(records)
    for trial, record in zip(trials, records.values(), strict=True):
        assert trial.number == record.number
        assert trial.state == EXPECTED[record.state]
        assert trial.params == record.point
        curve = {epoch: metrics[sweep.metric] for epoch, metrics in record.curve.items()}
        assert trial.intermediate_values == curve
        if record.state == "completed":
            assert trial.value == record.value(sweep.metric, sweep.mode)
    return trials


def runs_of(sweep) -> dict[str, object]:
    """All runs of the sweep's experiment, by their trial tag; fails if one occurs twice."""
    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    experiment = client.get_experiment_by_name(sweep.experiment)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    counts = Counter(run.data.tags[TRIAL_TAG] for run in found)
    assert set(counts.values()) == {1}, counts
    return {run.data.tags[TRIAL_TAG]: run for run in found}


def start_server(port: int, folder) -> subprocess.Popen:
    # Without it the server also starts seven processes for jobs that nothing here asks for.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    return subprocess.Popen(
        [*command, *store, "--port", str(port)],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(uri: str) -> None:
    from urllib.error import URLError

    for _ in range(120):
        try:
            urlopen(f"{uri}/health", timeout=2)
            return
        except (URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"the MLflow server at {uri} did not start within 60 s")


def make_trials(given_trials: list) -> list[TrialRecord]:
    return [
        TrialRecord(number, {}, {}, state=state, curve={} if value is None else {1: {"m": value}})
        for number, (state, value) in enumerate(given_trials)
    ]


EXPECTED = {
    "completed": State.COMPLETE,
    "infeasible": State.COMPLETE,
    "pruned": State.PRUNED,
    "failed": State.FAIL,
    "running": State.RUNNING,
    "interrupted": State.WAITING,
}
