"""What happened in a sweep, as lines of JSON, only ever appended: the source of every other view.

Each line is an event: ``sitting_started``, ``trial_started``, ``trial_retried``, ``epoch``,
``packing``, ``trial_ended``, ``confirmation_planned``, ``sweep_ended``,
``mlflow_run``, ``retraining_planned``, ``test_read``, ``retrained``, ``trouble``. Reading them back
gives the trials and the other runs; a line cut short by a crash is left out.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from trainables.errors import InputError, RunFailed
from trainables.files import cut_incomplete_line
from trainables.metrics import Direction
from tuning.record.moved_paths import relocate
from tuning.record.plans import ConfirmationPlan, RetrainingPlan
from tuning.record.time_spent import Spent

Event = dict[str, Any]
TrialState = Literal[
    "running", "frozen", "completed", "pruned", "failed", "infeasible", "interrupted"
]
RunKind = Literal["trial", "confirmation", "retraining", "test"]
ENDED_STATES: tuple[TrialState, ...] = ("completed", "pruned", "failed", "infeasible")

EVENTS_FILE = "events.jsonl"


@dataclass
class TrialRecord:
    """All that is known of one trial, or of one run of another kind."""

    number: int
    config: dict[str, Any]  # full and resolved, as it began
    point: dict[str, Any]  # the searched part of it
    state: TrialState = "running"
    curve: dict[int, dict[str, float]] = field(default_factory=dict)  # epoch -> metrics
    started: float = 0.0  # seconds since the Unix epoch
    ended: float | None = None
    error: str | None = None
    mlflow_run_id: str | None = None
    gpus: float = 0.0  # what it had the last time it started
    tags: dict[str, str] = field(default_factory=dict)  # what was said of it as a whole
    kind: RunKind = "trial"
    repeats: int | None = None  # the trial whose configuration it trains again
    name: str = ""  # for a person; a trial is called by its number

    @property
    def label(self) -> str:
        """What to call it."""
        return self.name or f"trial {self.number}"

    def best_epoch(self, metric: str, mode: Direction) -> int | None:
        """The epoch with the best ``metric``, the earliest of equals; None before the first."""
        sign = 1 if mode == "max" else -1
        with_metric = [epoch for epoch in sorted(self.curve) if metric in self.curve[epoch]]
        return max(with_metric, key=lambda epoch: sign * self.curve[epoch][metric], default=None)

    def value(self, metric: str, mode: Direction) -> float | None:
        """The best value of ``metric`` over the epochs so far."""
        epoch = self.best_epoch(metric, mode)
        return None if epoch is None else self.curve[epoch][metric]

    def values(self, objectives: Mapping[str, Direction]) -> list[float] | None:
        """Of each metric at the best epoch of the first; None where one was not reported then."""
        primary = next(iter(objectives))
        epoch = self.best_epoch(primary, objectives[primary])
        found = [None if epoch is None else self.curve[epoch].get(name) for name in objectives]
        values = [value for value in found if value is not None]
        return values if len(values) == len(found) else None


@dataclass
class SweepHistory:
    """The trials of a sweep and what else its events tell."""

    trials: dict[int, TrialRecord] = field(default_factory=dict)
    confirmations: dict[int, TrialRecord] = field(default_factory=dict)  # numbered apart
    plan: ConfirmationPlan | None = None  # of the trials as they are; None once there is a new one
    retrainings: dict[int, TrialRecord] = field(default_factory=dict)  # their tests among them
    retraining: RetrainingPlan | None = None  # the newest, while its champion is not registered
    parent_run_id: str | None = None
    experiment: str | None = None
    fingerprints: dict[str, Any] = field(default_factory=dict)  # of the newest sitting
    space: dict[str, Any] | None = None  # likewise, as ``SearchSpace.to_json`` has it
    space_changed: bool = False  # since it began: there may be trials that do not fit into it
    spent: Spent = field(default_factory=Spent)
    ended_by: str | None = None  # this and the next of the newest sitting that came to an end
    ended_because: str | None = None
    test_reads: list[int] = field(default_factory=list)  # of each reading, the trial retrained
    is_test_read: bool = False  # for the retraining that is planned
    n_in_state: Counter[TrialState] = field(default_factory=Counter)

    def apply(self, event: Event) -> None:
        """Take one more event into account."""
        kind = event["event"]
        if kind == "trial_started":
            self._start(event)
        elif kind == "epoch":
            trial = self.trial(event["trial"])
            trial.curve[event["epoch"]] = event["metrics"]
            trial.tags |= event.get("tags", {})
        elif kind == "packing":
            self.trial(event["trial"]).tags[kind] = describe_packing(event)
        elif kind == "trial_ended":
            trial = self.trial(event["trial"])
            self._enter(trial, event["state"])
            trial.error, trial.ended = event["error"], event["time"]
        elif kind == "mlflow_run":
            if event["trial"] is None:
                self.parent_run_id, self.experiment = event["run_id"], event["experiment"]
            else:
                self.trial(event["trial"]).mlflow_run_id = event["run_id"]
        elif kind == "confirmation_planned":
            self.plan = ConfirmationPlan(event["candidates"], event["seeds"])
        elif kind == "retraining_planned":
            names = [each.name for each in fields(RetrainingPlan)]
            self.retraining = RetrainingPlan(**{name: event[name] for name in names})
            self.is_test_read = False
        elif kind == "test_read":
            self.test_reads.append(event["number"])
            self.is_test_read = True
        elif kind == "retrained" and event["registered"]:
            self.retraining = None
        elif kind == "sweep_ended":
            self.ended_by, self.ended_because = event.get("ended_by"), event.get("ended_because")
        elif kind == "sitting_started":
            self._sit_down(event)
        if event.get("trial") not in self.retrainings:  # which come after the sweep
            self.spent.apply(event)

    def trial(self, number: int) -> TrialRecord:
        """The trial, or the run of another kind, of that number."""
        runs = self.trials if number in self.trials else self.confirmations
        return runs[number] if number in runs else self.retrainings[number]

    def knows(self, number: int) -> bool:
        """Whether a trial or another run of that number has begun."""
        return any(number in runs for runs in (self.trials, self.confirmations, self.retrainings))

    def runs(self) -> list[TrialRecord]:
        """The trials, and the runs of other kinds."""
        kinds = (self.trials, self.confirmations, self.retrainings)
        return [run for runs in kinds for run in list(runs.values())]

    def _sit_down(self, event: Event) -> None:
        moved = event["moved"]
        if self.space is not None:
            before = {**self.space, "fixed": relocate(self.space["fixed"], moved)}
            self.space_changed |= before != event["space"]
        self.space, self.fingerprints = event["space"], event["fingerprints"]
        for run in self.runs():
            run.config = relocate(run.config, moved)

    def _start(self, event: Event) -> None:
        number, kind = event["trial"], event.get("kind", "trial")
        others = self.confirmations if kind == "confirmation" else self.retrainings
        runs = self.trials if kind == "trial" else others
        if number not in runs:
            told = {name: event[name] for name in ("kind", "repeats", "name") if name in event}
            runs[number] = TrialRecord(number, event["config"], event["point"], **told)
            runs[number].started = event["time"]
            self.n_in_state["running"] += kind == "trial"
        else:
            self._enter(runs[number], "running")
        runs[number].gpus = event.get("gpus", 0.0)
        if kind == "trial":
            self.plan = None

    def _enter(self, trial: TrialRecord, state: TrialState) -> None:
        if trial.kind == "trial":
            self.n_in_state[trial.state] -= 1
            self.n_in_state[state] += 1
        trial.state = state


def describe_packing(event: Event) -> str:
    """A ``packing`` event in words."""
    n = event["trials_per_gpu"]
    return f"{n} {'trials share' if n > 1 else 'trial has'} a GPU from now on: {event['reason']}"


class Record:
    """The events of one sweep: appended to its file, folded into its history, told to listeners.

    Where the disk is full, events wait in memory and are written when there is room again.
    """

    def __init__(self, folder: Path) -> None:
        """Open the record in ``folder``, creating it if there is none yet.

        Raises:
            InputError: the folder can not be written.
        """
        self._path = folder / EVENTS_FILE
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Event], None]] = []
        self._unwritten = b""
        self._warned = False
        self.history = read_history(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            cut_incomplete_line(self._path)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"sweep folder {str(folder)!r} can not be written: {error}") from error

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` with every event from now on, in the thread that appends it."""
        self._listeners.append(listener)

    def append(self, event: str, **values: Any) -> None:
        """Write one event. It is on its way to the disk when this returns, if the disk takes it."""
        whole: Event = {"event": event, "time": time.time(), **values}
        with self._lock:
            self._unwritten += json.dumps(whole).encode() + b"\n"
            error = self._write()
            self.history.apply(whole)
        for listener in self._listeners:
            listener(whole)
        if error is not None and not self._warned:
            self._warned = True
            self.append(
                "trouble",
                message=f"record {str(self._path)!r} can not be written: {error}; the sweep goes "
                "on, and what happens is written as soon as there is room",
            )

    def _write(self) -> OSError | None:
        """Write what waits, as far as the disk takes it; the next call goes on from there."""
        try:
            while self._unwritten:
                n_written = os.write(self._file, self._unwritten)
                self._unwritten = self._unwritten[n_written:]
        except OSError as error:
            return error
        self._warned = False
        return None

    def close(self) -> None:
        """Make sure that everything is on the disk.

        Raises:
            RunFailed: the disk does not take it.
        """
        with self._lock:
            error = self._write()
            n_lost = self._unwritten.count(b"\n")
            with suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1  # a thread that comes late must not write elsewhere
        if error is not None:
            raise RunFailed(
                f"record {str(self._path)!r} lacks the last {n_lost} events: {error}; "
                "`thaw resume` goes on from what it has"
            )


def read_events(folder: Path) -> Iterator[Event]:
    """The events of the sweep in ``folder``, oldest first; none if it has none yet."""
    path = folder / EVENTS_FILE
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return  # the writer was killed in the middle of it
            yield json.loads(line)


def read_history(folder: Path) -> SweepHistory:
    """The history of the sweep in ``folder``, as it stands on the disk.

    Raises:
        InputError: a line is damaged; the message names it.
    """
    history = SweepHistory()
    n_applied = 0
    try:
        for event in read_events(folder):
            history.apply(event)
            n_applied += 1
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"record {str(folder / EVENTS_FILE)!r}: line {n_applied + 1} is damaged "
            f"({type(error).__name__}: {error})"
        ) from error
    return history
