"""A sweep in MLflow: a parent run and one child run per trial, written in batches by a thread.

The thread follows the sweep's record. When the server does not answer, events wait in memory and
are tried again; the record keeps them on disk, and a later sitting writes what it finds missing.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainables.errors import InputError
from tuning.record.events import Event, Record, SweepHistory, TrialRecord
from tuning.record.standings import confirmed
from tuning.record.sweep import Sweep

_SECONDS_BETWEEN_BATCHES = 1.0
_SECONDS_BETWEEN_RETRIES = 5.0
# How long the end of a sweep waits for MLflow while it answers, and while it does not.
_SECONDS_TO_FLUSH, _SECONDS_TO_FLUSH_FAILING = 120.0, 12.0
_SECONDS_WAITED_WITHOUT_A_WORD = 6.0  # its import takes half of that
# Of a request: what does not answer is tried again here, and MLflow's own seven take two minutes
# in which nobody would be told.
_HTTP_RETRIES_VARIABLE, _HTTP_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 100  # MLflow's limits
_LIBRARIES = ("torch", "torchvision", "transformers", "ray", "optuna", "mlflow")
_RUN_STATUS = {
    "completed": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "infeasible": "FAILED",
    "interrupted": "KILLED",
    "frozen": "SCHEDULED",
}

TRIAL_TAG, SWEEP_TAG, STATE_TAG = "thaw.trial", "thaw.sweep", "thaw.state"
ENDED_TAG = "thaw.ended_because"  # of the parent run
CONFIRMS_TAG = "thaw.confirms"  # of a confirmation run: the trial
CONFIRMED_TAG = "thaw.confirmed"  # of a trial: its mean over fresh seeds

Item = TypeVar("Item")


class _GivenUp(Exception):
    """The sweep has ended and MLflow is still away."""


class Writer(Protocol):
    """Writes a record somewhere. Each call may be repeated after it failed half-way."""

    def open(self) -> None: ...

    def write(self, events: Iterable[Event]) -> None: ...


class Follower:
    """Follows a record in a thread, and has what happens written in batches."""

    def __init__(
        self,
        record: Record,
        make_writer: Callable[[], Writer],
        warn: Callable[[str], None],
        *,
        name: str,
        where: str,
    ) -> None:
        """Follow ``record``; ``name`` and ``where`` say in messages what is written to."""
        self._record = record
        self._make_writer = make_writer
        self._warn = warn
        self._name = name
        self._where = where
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._failing = False  # whether the latest attempt failed
        self._warned = False
        self._failure: str | None = None

    def start(self) -> None:
        """Begin to follow the record. What it holds already and is not written is written first."""
        self._record.listen(self._follow)
        self._thread.start()

    def _follow(self, event: Event) -> None:
        if event["event"] != "mlflow_run":  # the writer's own
            self._queue.put(event)

    def close(self) -> bool:
        """Write what is left; False if that is not taken, or taken too slowly."""
        self._closing.set()
        self._queue.put(None)
        started, told = time.monotonic(), False
        while self._thread.is_alive():
            self._thread.join(0.1)
            waited = time.monotonic() - started
            if waited > _SECONDS_WAITED_WITHOUT_A_WORD and not told:
                told = True
                self._warn(f"waiting for {self._where} to take what is left …")
            if waited > (_SECONDS_TO_FLUSH_FAILING if self._failing else _SECONDS_TO_FLUSH):
                break
        self._given_up.set()
        return not self._thread.is_alive() and self._failure is None

    def _run(self) -> None:
        try:
            writer = self._patiently(self._make_writer)
            self._patiently(writer.open)
            while True:
                events = self._next_batch()
                if events:
                    self._patiently(lambda batch=events: writer.write(batch))  # type: ignore[misc]
                elif self._closing.is_set() and self._queue.empty():
                    return
        except _GivenUp:
            return
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            self._warn(f"{self._name}: {self._failure}")

    def _next_batch(self) -> list[Event]:
        events: list[Event] = []
        try:
            first = self._queue.get(timeout=_SECONDS_BETWEEN_BATCHES)
            if first is None:
                return events
            events.append(first)
            if not self._closing.is_set():
                time.sleep(_SECONDS_BETWEEN_BATCHES)
            while True:
                event = self._queue.get_nowait()
                if event is not None:
                    events.append(event)
        except queue.Empty:
            return events

    def _patiently(self, action: Callable[[], Item]) -> Item:
        """Try until it works, or until ``close`` has waited long enough.

        Raises:
            _GivenUp: nobody waits any longer. The record still has it all.
        """
        while True:
            try:
                result = action()
                self._failing = False
                return result
            except Exception as error:
                self._failing = True
                if not self._warned:
                    self._warned = True
                    self._warn(
                        f"{self._where} does not take records ({reason_of(error)}); training goes "
                        "on, and they are written when it answers again"
                    )
                if self._given_up.wait(_SECONDS_BETWEEN_RETRIES):
                    raise _GivenUp from error


class MlflowTracker(Follower):
    """Follows a record and writes it to MLflow."""

    def __init__(self, sweep: Sweep, record: Record, warn: Callable[[str], None]) -> None:
        super().__init__(
            record,
            lambda: _Writer(sweep, record),
            warn,
            name="MLflow",
            where=f"MLflow at {sweep.tracking_uri}",
        )
        self._soon = ExitStack()

    def start(self) -> None:
        """As of every follower."""
        self._soon.enter_context(giving_up_soon())
        super().start()

    def close(self) -> bool:
        """As of every follower."""
        with self._soon:
            return super().close()


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
        sweep, client = self._sweep, self._client
        experiment = client.get_experiment_by_name(sweep.experiment)
        if experiment is None:
            self._experiment_id = client.create_experiment(sweep.experiment)
        else:
            self._experiment_id = experiment.experiment_id
        history = self._record.history
        if history.parent_run_id is None:
            run = self._find(
                f"tags.{SWEEP_TAG} = '{_sweep_id(sweep)}' and tags.{TRIAL_TAG} = 'parent'"
            )
            run_id = (
                run
                or client.create_run(
                    self._experiment_id,
                    run_name=sweep.name,
                    tags={**sweep_tags(sweep), TRIAL_TAG: "parent"},
                ).info.run_id
            )
            self._log_params(run_id, _sweep_params(sweep))
            self._record.append(
                "mlflow_run", trial=None, run_id=run_id, experiment=sweep.experiment
            )
        self._parent_id = history.parent_run_id or ""
        client.update_run(self._parent_id, status="RUNNING")
        self._catch_up(history)

    def write(self, events: Iterable[Event]) -> None:
        """Write the trials that ``events`` are about, as the record has them now."""
        events = list(events)
        numbers = dict.fromkeys(
            event["trial"] for event in events if event.get("trial") is not None
        )
        for number in numbers:
            self._write_trial(self._record.history.trial(number))
        for event in events:
            if event["event"] == "sweep_ended":
                for each in confirmed(self._sweep, self._record.history):
                    if each.trial.mlflow_run_id is not None:
                        self._log_tags(each.trial.mlflow_run_id, {CONFIRMED_TAG: str(each)})
                if because := event.get("ended_because"):
                    self._log_tags(self._parent_id, {ENDED_TAG: because})
                self._client.set_terminated(self._parent_id, status=event["status"])

    def _catch_up(self, history: SweepHistory) -> None:
        for trial in (*list(history.trials.values()), *list(history.confirmations.values())):
            self._write_trial(trial)

    def _write_trial(self, trial: TrialRecord) -> None:
        run_id = trial.mlflow_run_id or self._start_trial(trial)
        if trial.number not in self._logged_epochs:
            self._logged_epochs[trial.number] = self._newest_epoch(run_id)
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

    def _start_trial(self, trial: TrialRecord) -> str:
        sweep = self._sweep
        name = f"{sweep.name}-{trial.number:04d}"
        confirms = {}
        if trial.confirms is not None:
            name = f"{sweep.name}-{trial.confirms:04d}-seed-{trial.config['seed']}"
            confirms = {CONFIRMS_TAG: str(trial.confirms)}
        found = self._find(
            f"tags.{SWEEP_TAG} = '{_sweep_id(sweep)}' and tags.{TRIAL_TAG} = '{trial.number}'"
        )
        run_id: str = (
            found
            or self._client.create_run(
                self._experiment_id,
                run_name=name,
                start_time=int(trial.started * 1000),
                tags={
                    **sweep_tags(sweep),
                    TRIAL_TAG: str(trial.number),
                    STATE_TAG: trial.state,
                    "thaw.gpus": f"{trial.gpus:g}",
                    "mlflow.parentRunId": self._parent_id,
                    "thaw.freezing": str(trial.config.get("freezing", "")),
                    "thaw.data_fingerprint": sweep.data_fingerprint(trial.config) or "",
                    **confirms,
                },
            ).info.run_id
        )
        self._log_params(run_id, trial.config)
        self._record.append(
            "mlflow_run", trial=trial.number, run_id=run_id, experiment=sweep.experiment
        )
        return run_id

    def _find(self, query: str) -> str | None:
        runs = self._client.search_runs([self._experiment_id], query, max_results=1)
        return runs[0].info.run_id if runs else None

    def _newest_epoch(self, run_id: str) -> int:
        history = self._client.get_metric_history(run_id, self._sweep.metric)
        return max((metric.step for metric in history), default=0)

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


@contextmanager
def giving_up_soon() -> Iterator[None]:
    """In the block this process's MLflow says within seconds that a server does not answer."""
    is_set = _HTTP_RETRIES_VARIABLE in os.environ
    os.environ.setdefault(_HTTP_RETRIES_VARIABLE, _HTTP_RETRIES)
    try:
        yield
    finally:
        if not is_set:
            os.environ.pop(_HTTP_RETRIES_VARIABLE, None)


def check_mlflow(sweep: Sweep) -> None:
    """See that the sweep's MLflow answers.

    Raises:
        InputError: it does not.
    """
    try:
        with giving_up_soon():
            client = quiet_mlflow().MlflowClient(tracking_uri=sweep.tracking_uri)
            client.get_experiment_by_name(sweep.experiment)
    except Exception as error:
        raise InputError(
            f"MLflow at {sweep.tracking_uri} does not answer ({reason_of(error)}); what is trained "
            "now is to be registered there"
        ) from error


def quiet_mlflow() -> Any:
    """The mlflow module, without its notices of migrations, its progress bars and its telemetry."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def reason_of(error: Exception) -> str:
    """The first line of an error, or of the one that it ends with as its cause."""
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    cause = re.search(r"\(Caused by (.+?)\)+$", first_line)
    return cause[1] if cause else first_line


def _chunks(items: list[Item], size: int) -> Iterable[list[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _sweep_id(sweep: Sweep) -> str:
    """What tells this sweep from another of the same name in the same MLflow."""
    return f"{sweep.name}@{sweep.began_in or sweep.place}"


def sweep_tags(sweep: Sweep) -> dict[str, str]:
    """Tags of every run of a sweep: which one, from which code, with which libraries."""
    versions = {}
    for library in _LIBRARIES:
        versions[f"version.{library}"] = importlib.metadata.version(library)
    return {SWEEP_TAG: _sweep_id(sweep), "git_commit": git_commit(), **versions}


def _sweep_params(sweep: Sweep) -> dict[str, Any]:
    names = (
        "metric",
        "mode",
        "trials",
        "time_budget_seconds",
        "searcher",
        "scheduler",
        "seed",
        "engine",
        "n_workers",
        "strategy",
        "gpus_per_trial",
        "gpu_hours",
        "target",
        "patience",
        "confirm",
        "confirm_seeds",
        "cost_aware",
    )
    return {
        "task": sweep.task,
        "space": sweep.space.name,
        **{name: getattr(sweep, name) for name in names},
    }


def git_commit() -> str:
    """The commit of the working folder, + where files differ; empty outside a repository."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            cwd=Path.cwd(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
