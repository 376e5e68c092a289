"""What ``thaw retrain`` does where MLflow does not take what it has trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import TOY_SPACE
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from tuning.after import champion
from tuning.after.champion import CHECKPOINT_TAG, log_champion
from tuning.control.retraining import FIRST_NUMBER, Training
from tuning.record.events import TrialRecord, read_events, read_history
from tuning.storage.saved_sweeps import open_sweep

NOBODY = "http://127.0.0.1:9"
RUN = TrialRecord(FIRST_NUMBER, {"seed": 0}, {}, curve={1: {"value": 0.8}, 2: {"value": 0.9}})
RESULT = Training(RUN, RUN, "retrain/1/seed-0")
DOCUMENT = {
    "trial": 0,
    "test": None,
    "verdict": "not compared",
    "test_reads_before": 0,
    "default": None,
    "seeds": [{"seed": 0, "value": 0.9, "test": None}],
    "gains": [],
}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(champion, "_SECONDS_OF_PATIENCE", 1.0)
    monkeypatch.setattr(champion, "_SECONDS_BETWEEN_TRIES", 0.1)


@pytest.fixture
def finished(thaw, workplace):
    """A sweep of two trials, and its history."""
    sweep = ("sweep", TOY_SPACE, "--engine", "inprocess", "--metric", "value:max", "--trials", "2")
    assert thaw(*sweep, "--name", "s")[0] == 0
    return open_sweep("s", "sweeps"), read_history(Path("sweeps/s"))


def failing(monkeypatch, n_times: int, error: Exception | None = None) -> None:
    """Let MLflow be lost in the middle of a champion's run, so many times."""
    compared, left = champion._compared, [n_times]

    def lost(*arguments):
        left[0] -= 1
        if left[0] >= 0:
            raise error or ConnectionError("it was restarted")
        return compared(*arguments)

    monkeypatch.setattr(champion, "_compared", lost)


def test_a_server_that_is_lost_in_the_middle_is_waited_for_and_has_one_run(
    finished, impatient, monkeypatch, view
):
    sweep, history = finished
    monkeypatch.setattr(champion, "_SECONDS_OF_PATIENCE", 60.0)  # MLflow's import takes some
    failing(monkeypatch, 2)
    logged = log_champion(sweep, history, RESULT, DOCUMENT, view.say)
    assert logged["failure"] is None
    assert [message.split(" (")[1] for message in view.messages] == [
        "it was restarted); trying again, until Ctrl-C or for 1 minutes"
    ] * 2
    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    experiment = client.get_experiment_by_name(sweep.experiment)
    runs = client.search_runs([experiment.experiment_id], f"tags.{CHECKPOINT_TAG} LIKE '%'")
    assert [(run.info.run_id, run.info.status) for run in runs] == [
        (logged["mlflow_run_id"], "FINISHED")
    ]
    assert len(client.get_metric_history(logged["mlflow_run_id"], "value")) == 2


def test_what_trying_again_would_not_mend_is_told_at_once(finished, monkeypatch, view):
    sweep, history = finished
    for error in (
        MlflowException("a bad name", error_code=INVALID_PARAMETER_VALUE),
        ZeroDivisionError("a bug"),
    ):
        with monkeypatch.context() as patch:
            failing(patch, 1, error)
            logged = log_champion(sweep, history, RESULT, DOCUMENT, view.say)
        assert logged["failure"].endswith(f"does not take the champion ({error})")
    assert view.messages == []


@pytest.mark.usefixtures("finished", "impatient")
@pytest.mark.parametrize("as_json", [False, True])
def test_what_mlflow_never_takes_is_told_all_the_same(monkeypatch, thaw, as_json):
    with monkeypatch.context() as patch:
        failing(patch, 1000)
        code, out, err = thaw("retrain", "s", *(["--json"] if as_json else []))
    assert code == 1
    value = read_history(Path("sweeps/s")).retrainings[FIRST_NUMBER].value("value", "max")
    if as_json:
        document = json.loads(out)
        assert (document["mean"], document["mlflow_run_id"]) == (value, None)
        assert document["failure"].endswith("does not take the champion (it was restarted)")
    else:
        assert f"{value:.4f}" in out
    assert re.search("it was restarted\\); it is in .*sweeps/s/retrain/[0-9-]+/seed-0/best", err)
    kinds = [event["event"] for event in read_events(Path("sweeps/s"))]
    assert kinds.count("retrained") == 1
    # Typed again, it only registers what was trained.
    code, out, _ = thaw("retrain", "s", "--json")
    assert (code, json.loads(out)["mean"]) == (0, value)
    assert len(read_history(Path("sweeps/s")).retrainings) == 1


@pytest.mark.usefixtures("finished", "impatient")
def test_a_server_that_does_not_answer_is_known_before_anything_is_trained(thaw):
    description = json.loads(Path("sweeps/s/sweep.json").read_text())
    Path("sweeps/s/sweep.json").write_text(json.dumps({**description, "tracking_uri": NOBODY}))
    code, out, err = thaw("retrain", "s")
    assert (code, out) == (2, "")
    assert read_history(Path("sweeps/s")).retraining is None
    assert f"MLflow at {NOBODY} does not answer (NewConnectionError(" in err
