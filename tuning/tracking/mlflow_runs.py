"""A sweep in MLflow: a parent run and one child run per trial, written in batches by a thread.

The thread follows the sweep's record. When the server does not answer, events wait in memory and
are tried again; the record keeps them on disk, and a later sitting writes what it finds missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tuning.record.events import Event, Record, TrialRecord
from tuning.record.options import KEPT_NAMES, OPTIONS
from tuning.record.standings import confirmed
from tuning.record.sweep import Sweep
from tuning.tracking.follower import Follower
from tuning.tracking.mlflow_client import (
    CONFIRMED_TAG,
    CONFIRMS_TAG,
    ENDED_TAG,
    STATE_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    giving_up_soon,
    quiet_mlflow,
    sweep_id,
    sweep_tags,
)

_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 100  # MLflow's limits
_RUN_STATUS = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "infeasible": "FAILED",
    "interrupted": "KILLED",
    "frozen": "SCHEDULED",
}


def make_tracker(sweep: Sweep, record: Record, warn: Callable[[str], None]) -> Follower:
    """What writes a sweep's record to MLflow, once it is started."""
    return Follower(
        record,
        lambda: _Writer(sweep, record),
        warn,
        name="MLflow",
        where=f"MLflow at {sweep.tracking_uri}",
        around=giving_up_soon(),
    )


class _Writer:
    """The MLflow calls. Each may be repeated after it failed half-way: nothing is written twice."""

    def __init__(self, sweep: Sweep, record: Record) -> None:
        self._sweep = sweep
        self._record = record
        self._client: Any = quiet_mlflow().MlflowClient(tracking_uri=sweep.tracking_uri)
        self._experiment_id = ""
        self._logged_epochs: dict[int, int] = {}  # trial -> newest epoch that is in MLflow
        self._written_states: dict[int, tuple[str | None, ...]] = {}
        self._parent_id = ""

    def open(self) -> None:
        """Find or make the experiment and the parent run; write what MLflow lacks of the record."""
        sweep, client, history = self._sweep, self._client, self._record.history
        experiment = client.get_experiment_by_name(sweep.experiment)
        if experiment is None:
            self._experiment_id = client.create_experiment(sweep.experiment)
        else:
            self._experiment_id = experiment.experiment_id
        self._parent_id = history.parent_run_id or self._start(None)
        client.update_run(self._parent_id, status="RUNNING")
        for trial in (*list(history.trials.values()), *list(history.confirmations.values())):
            self._write_trial(trial)

    def write(self, events: Sequence[Event]) -> None:
        """Write the trials that ``events`` are about, as the record has them now."""
        numbers = dict.fromkeys(event.get("trial") for event in events)
        for number in numbers:
            if number is not None:
                self._write_trial(self._record.history.trial(number))
        for event in events:
            if event["event"] == "sweep_ended":
                for each in confirmed(self._sweep, self._record.history):
                    if each.trial.mlflow_run_id is not None:
                        self._log_tags(each.trial.mlflow_run_id, {CONFIRMED_TAG: str(each)})
                if because := event.get("ended_because"):
                    self._log_tags(self._parent_id, {ENDED_TAG: because})
                self._client.set_terminated(self._parent_id, status=event["status"])

    def _write_trial(self, trial: TrialRecord) -> None:
        run_id = trial.mlflow_run_id or self._start(trial)
        if trial.number not in self._logged_epochs:
            logged = self._client.get_metric_history(run_id, self._sweep.metric)
            self._logged_epochs[trial.number] = max((each.step for each in logged), default=0)
        newest = self._logged_epochs[trial.number]
        epochs = sorted(epoch for epoch in list(trial.curve) if epoch > newest)
        self._log_metrics(run_id, trial, epochs)
        if epochs:
            self._logged_epochs[trial.number] = epochs[-1]
        state, ended = trial.state, trial.state != "running"
        # Other tags change with every epoch; what they come to is known at the end.
        written = (state, trial.tags.get("packing"))
        if self._written_states.get(trial.number) == written:
            return
        tags: dict[str, str] = {STATE_TAG: state}
        tags |= {f"thaw.{name}": value for name, value in list(trial.tags.items())}
        if ended and trial.error:
            tags["thaw.error"] = trial.error[-4000:]
        self._log_tags(run_id, tags)
        if ended:
            end_time = None if trial.ended is None else int(trial.ended * 1000)
            self._client.set_terminated(run_id, status=_RUN_STATUS[state], end_time=end_time)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._written_states[trial.number] = written

    def _start(self, trial: TrialRecord | None) -> str:
        """Find or make the run of a trial, or without one the sweep's own; and note it."""
        sweep, client = self._sweep, self._client
        number, tag = (None, "parent") if trial is None else (trial.number, str(trial.number))
        query = f"tags.{SWEEP_TAG} = '{sweep_id(sweep)}' and tags.{TRIAL_TAG} = '{tag}'"
        found = client.search_runs([self._experiment_id], query, max_results=1)
        if not found:
            own, options = ({}, {"run_name": sweep.name}) if trial is None else self._of(trial)
            tags = {**sweep_tags(sweep), TRIAL_TAG: tag, **own}
            found = [client.create_run(self._experiment_id, tags=tags, **options)]
        run_id: str = found[0].info.run_id
        self._log_params(run_id, sweep_params(sweep) if trial is None else trial.config)
        self._record.append("mlflow_run", trial=number, run_id=run_id, experiment=sweep.experiment)
        return run_id

    def _of(self, trial: TrialRecord) -> tuple[dict[str, str], dict[str, Any]]:
        """The tags of a trial's run, and what else there is to say when it is made."""
        sweep, confirms = self._sweep, {}
        name = f"{sweep.name}-{trial.number:04d}"
        if trial.repeats is not None:
            name = f"{sweep.name}-{trial.repeats:04d}-seed-{trial.config['seed']}"
            confirms = {CONFIRMS_TAG: str(trial.repeats)}
        tags = {
            STATE_TAG: trial.state,
            "thaw.gpus": f"{trial.gpus:g}",
            "mlflow.parentRunId": self._parent_id,
            "thaw.freezing": str(trial.config.get("freezing", "")),
            "thaw.data_fingerprint": sweep.data_fingerprint(trial.config) or "",
            **confirms,
        }
        return tags, {"run_name": name, "start_time": int(trial.started * 1000)}

    def _log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Log what the run lacks: MLflow refuses to change a parameter, such as more trials."""
        from mlflow.entities import Param

        known = self._client.get_run(run_id).data.params
        params = [Param(name, str(value)) for name, value in values.items() if name not in known]
        for chunk in _chunks(params, _PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=chunk)

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _log_metrics(self, run_id: str, trial: TrialRecord, epochs: list[int]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, epoch)
            for epoch in epochs
            for name, value in trial.curve[epoch].items()
        ]
        for chunk in _chunks(metrics, _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=chunk)


def _chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def sweep_params(sweep: Sweep) -> dict[str, Any]:
    return {
        "task": sweep.task,
        "space": sweep.space.name,
        "metric": sweep.metric,
        "mode": sweep.mode,
        **{name: getattr(sweep, name) for name in KEPT_NAMES if OPTIONS[name].is_logged},
    }
