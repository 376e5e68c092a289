"""After a soak: is every trial there just once, in record, study, MLflow and on disk?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from soak_training import accuracy, load_data, read_state

from tuning.record.events import ENDED_STATES, read_events, read_history
from tuning.record.standings import best_trial
from tuning.record.sweep import Sweep
from tuning.search.study_storage import JOURNAL_FILE, open_storage
from tuning.session.summary import fetch_checkpoint
from tuning.storage.stores import FolderStore
from tuning.storage.trial_checkpoints import BEST
from tuning.tracking.mlflow_client import TRIAL_TAG

Faults = list[str]  # what is wrong, a line each


def check_record(sweep: Sweep, n_trials: int) -> tuple[Faults, int]:
    """Each trial ended once, with a curve without gaps or doubles; also how many were lost."""
    trials = read_history(sweep.folder).trials
    wrong = [] if set(trials) == set(range(n_trials)) else [f"record: trials {sorted(trials)}"]
    events = list(read_events(sweep.folder))
    ended = Counter(
        event["trial"]
        for event in events
        if event["event"] == "trial_ended" and event["state"] in ENDED_STATES
    )
    epochs = Counter((e["trial"], e["epoch"]) for e in events if e["event"] == "epoch")
    wrong += [f"record: trial {n} ended {ended[n]} times" for n in trials if ended[n] != 1]
    wrong += [f"record: epoch {key} {count} times" for key, count in epochs.items() if count > 1]
    n_lost = n_trials - len(trials)
    for number, trial in trials.items():
        if sorted(trial.curve) != list(range(1, len(trial.curve) + 1)):
            wrong.append(f"record: trial {number} has the epochs {sorted(trial.curve)}")
        if trial.state not in ("completed", "pruned"):
            n_lost += 1
            wrong.append(f"record: trial {number} is {trial.state}: {trial.error}")
        elif trial.state == "completed" and len(trial.curve) != trial.config["epochs"]:
            wrong.append(f"record: trial {number} completed after {len(trial.curve)} epochs")
    return wrong, n_lost


def check_mlflow(sweep: Sweep) -> tuple[Faults, int]:
    """One run for the sweep and one for each trial, with its curve; also how many are doubled."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    experiment = client.get_experiment_by_name(sweep.experiment)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    counts = Counter(run.data.tags[TRIAL_TAG] for run in runs)
    n_doubled = sum(count - 1 for count in counts.values())
    by_tag: dict[str, Any] = {run.data.tags[TRIAL_TAG]: run for run in runs}
    trials = read_history(sweep.folder).trials
    expected = {"parent", *map(str, trials)}
    wrong = [f"MLflow: {tag} has {n} runs" for tag, n in counts.items() if n > 1]
    if set(by_tag) != expected:
        wrong.append(f"MLflow: runs of {sorted(set(by_tag) ^ expected)} are missing or too many")
    for number, trial in trials.items():
        run = by_tag.get(str(number))
        if run is None:
            continue
        if run.info.status != "FINISHED":
            wrong.append(f"MLflow: trial {number} is {run.info.status}")
        metrics = client.get_metric_history(run.info.run_id, sweep.metric)
        logged = sorted((metric.step, metric.value) for metric in metrics)
        if logged != [(epoch, m[sweep.metric]) for epoch, m in sorted(trial.curve.items())]:
            wrong.append(f"MLflow: trial {number} has the curve {logged}")
    return wrong, n_doubled


def check_study(sweep: Sweep) -> Faults:
    """The study beside the record has each trial once, ended as it did, with its curve."""
    import optuna

    storage = open_storage(f"journal://{sweep.folder / JOURNAL_FILE}", "--storage")
    study = optuna.load_study(study_name=sweep.name, storage=storage)
    trials = read_history(sweep.folder).trials
    numbers = [trial.user_attrs["thaw.trial"] for trial in study.trials]
    if numbers != sorted(trials):
        return [f"study: trials {numbers}"]
    wrong = []
    for told in study.trials:
        record = trials[told.user_attrs["thaw.trial"]]
        state = "COMPLETE" if record.state == "completed" else record.state.upper()
        if told.state.name != state:
            wrong.append(f"study: trial {record.number} is {told.state.name}, not {state}")
        curve = {epoch: metrics[sweep.metric] for epoch, metrics in record.curve.items()}
        if told.intermediate_values != curve:
            wrong.append(f"study: trial {record.number} has the curve {told.intermediate_values}")
    return wrong


def check_disk(sweep: Sweep) -> Faults:
    """The best checkpoints and nothing else; the best one gives the value that was recorded."""
    keys = [key.split("/") for key in FolderStore(sweep.folder).sizes()]
    found = {(int(number), name) for _, number, name in keys}
    wrong = [f"disk: {name} of trial {number}" for number, name in sorted(found) if name != BEST]
    if len(found) != sweep.keep_checkpoints:
        wrong.append(f"disk: {len(found)} checkpoints, not {sweep.keep_checkpoints}")
    best = best_trial(sweep, read_history(sweep.folder))
    checkpoint = fetch_checkpoint(sweep, best)
    if checkpoint is None:
        return [*wrong, f"disk: trial {best.number}, the best, has no checkpoint"]
    weights, _, _ = read_state(checkpoint)
    computed = accuracy(weights, load_data(Path(best.config["data"])))
    recorded = best.value(sweep.metric, sweep.mode)
    if computed != recorded:
        wrong.append(f"disk: trial {best.number} has {recorded}, its checkpoint {computed}")
    return wrong
