"""What happened in a sweep, as lines of JSON, only ever appended: the source of every other view.

Each line is an event: ``sitting_started``, ``trial_started``, ``trial_retried``, ``epoch``,
``packing``, ``trial_ended``, ``confirmation_planned``, ``sweep_ended``,
``mlflow_run``, ``test_read``, ``retrained``, ``trouble``. Reading them back gives the trials; a
line cut short by a crash is left out.
"""

from __future__ import annotations

import json
import os
import threading
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainables.errors import InputError, RunFailed
from trainables.metrics import Direction
from tuning.record.moved_paths import relocate
from tuning.record.time_spent import Spent

Event = dict[str, Any]
TrialState = Literal[
    "running", "frozen", "completed", "pruned", "failed", "infeasible", "interrupted"
]
ENDED_STATES: tuple[TrialState, ...] = ("completed", "pruned", "failed", "infeasible")

EVENTS_FILE = "events.jsonl"


@dataclass
class TrialRecord:
    """All that is known of one trial."""

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
    confirms: int | None = None  # the trial that this run repeats with another seed

    @property
    def label(self) -> str:
        """What to call it."""
        if self.confirms is None:
            return f"trial {self.number}"
        return f"confirmation of trial {self.confirms} with seed {self.config['seed']}"

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


@dataclass(frozen=True)
class ConfirmationPlan:
    """Which trials are run again, each with which seeds."""

    candidates: list[int]
    seeds: list[int]


@dataclass
class SweepHistory:
    """The trials of a sweep and what else its events tell."""

    trials: dict[int, TrialRecord] = field(default_factory=dict)
    confirmations: dict[int, TrialRecord] = field(default_factory=dict)  # numbered apart
    plan: ConfirmationPlan | None = None  # of the trials as they are; None once there is a new one
    parent_run_id: str | None = None
    experiment: str | None = None
    fingerprints: dict[str, Any] = field(default_factory=dict)  # of the newest sitting
    space: dict[str, Any] | None = None  # likewise, as ``SearchSpace.to_json`` has it
    space_changed: bool = False  # since it began: there may be trials that do not fit into it
    spent: Spent = field(default_factory=Spent)
    ended_by: str | None = None  # this and the next of the newest sitting that came to an end
    ended_because: str | None = None
    test_reads: list[int] = field(default_factory=list)  # of each reading, the trial retrained
    n_in_state: Counter[TrialState] = field(default_factory=Counter)

    def apply(self, event: Event) -> None:
        """Take one more event into account."""
        kind = event["event"]
        self.spent.apply(event)
        if kind == "trial_started":
            self._start(event)
        elif kind == "epoch":
            trial = self.trial(event["trial"])
            trial.curve[event["epoch"]] = event["metrics"]
            trial.tags |= event.get("tags", {})
        elif kind == "packing":
            self.trial(event["trial"]).tags["packing"] = describe_packing(event)
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
        elif kind == "test_read":
            self.test_reads.append(event["number"])
        elif kind == "sweep_ended":
            self.ended_by, self.ended_because = event.get("ended_by"), event.get("ended_because")
        elif kind == "sitting_started":
            self._sit_down(event)

    def trial(self, number: int) -> TrialRecord:
        """The trial or the confirmation run of that number."""
        return self.trials[number] if number in self.trials else self.confirmations[number]

    def _sit_down(self, event: Event) -> None:
        moved = event["moved"]
        if self.space is not None:
            before = {**self.space, "fixed": relocate(self.space["fixed"], moved)}
            self.space_changed |= before != event["space"]
        self.space, self.fingerprints = event["space"], event["fingerprints"]
        for trial in (*self.trials.values(), *self.confirmations.values()):
            trial.config = relocate(trial.config, moved)

    def _start(self, event: Event) -> None:
        number, confirms = event["trial"], event.get("confirms")
        runs = self.trials if confirms is None else self.confirmations
        if number not in runs:
            runs[number] = TrialRecord(
                number, event["config"], event["point"], started=event["time"], confirms=confirms
            )
            self.n_in_state["running"] += confirms is None
        else:
            self._enter(runs[number], "running")
        runs[number].gpus = event.get("gpus", 0.0)
        if confirms is None:
            self.plan = None

    def _enter(self, trial: TrialRecord, state: TrialState) -> None:
        if trial.confirms is None:
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


def cut_incomplete_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


_Rank = tuple[float, int]  # smaller is better


def _rank(trial: TrialRecord, metric: str, mode: Direction) -> _Rank | None:
    """Where a trial stands; None without a value, or if it is infeasible or failed."""
    value = None if trial.state in ("failed", "infeasible") else trial.value(metric, mode)
    return None if value is None else (-value if mode == "max" else value, trial.number)


def ranked(trials: Mapping[int, TrialRecord], metric: str, mode: Direction) -> list[TrialRecord]:
    """Trials that reached a value, best first; infeasible and failed ones are left out."""
    ranks = [(_rank(trial, metric, mode), trial) for trial in trials.values()]
    valid = [(rank, trial) for rank, trial in ranks if rank is not None]
    return [trial for _, trial in sorted(valid, key=lambda pair: pair[0])]


class Best:
    """The best few of the trials that ended, known at each end without a look at all others."""

    def __init__(self, n: int, metric: str, mode: Direction) -> None:
        self._n = n
        self._metric = metric
        self._mode = mode
        self._ranked: list[tuple[_Rank, TrialRecord]] = []

    @property
    def trials(self) -> list[TrialRecord]:
        """At most ``n``, best first."""
        return [trial for _, trial in list(self._ranked)]

    def add(self, trial: TrialRecord) -> TrialRecord | None:
        """Take in a trial that has ended; returns one that is not among the best, if there is one.

        That is the trial itself, or the one whose place it took. A trial that was there before, to
        go on then, counts by what it has reached now.
        """
        self._ranked = [pair for pair in self._ranked if pair[1].number != trial.number]
        rank = _rank(trial, self._metric, self._mode)
        if rank is None:
            return trial
        insort(self._ranked, (rank, trial), key=lambda pair: pair[0])
        return self._ranked.pop()[1] if len(self._ranked) > self._n else None

    def drop_worst(self) -> TrialRecord | None:
        """Take out the worst and return it, but never the only one."""
        return self._ranked.pop()[1] if len(self._ranked) > 1 else None
