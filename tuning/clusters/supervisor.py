"""Drives a submitted sweep to its end on a cluster's head, whatever its driver dies of.

A driver that ends with an exit code of ours has decided how the sweep ends. Any other end, such as
a signal, is followed by ``thaw resume``: at most three times without an epoch in between.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from tuning.clusters.jobs import JobRecord, State, Submitted, sweeps_folder_of
from tuning.control.goals import CRASHED
from tuning.record.events import read_events, read_history
from tuning.record.sweep import Sweep
from tuning.session.summary import has_failed, summarize
from tuning.storage.driver_lock import sole_driver
from tuning.storage.saved_sweeps import open_sweep
from tuning.user_code.sent_files import FILES_VARIABLE

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
PREFIX = "supervisor: "  # of our own lines in the log of a driver
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # how Ray hands a job's settings to its driver

_MOST_FRUITLESS_RESTARTS = 3
_SECONDS_BEFORE_RESTART = 2.0  # and twice as long each further time
_SECONDS_BETWEEN_LOOKS = 1.0
# -P: a file of the user's in the working folder must not be taken for a library.
_THAW = [sys.executable, "-P", "-c", "from tuning.command_line.cli import console; console()"]


class Supervisor:
    """Starts drivers of one sweep, one after the other, until one has ended it."""

    def __init__(self, record: JobRecord, submitted: Submitted, job_id: str) -> None:
        before = record.state()
        self._record = record
        self._submitted = submitted
        self._sweeps_folder = sweeps_folder_of(submitted)
        self._state = replace(
            before or State("running", job_id), phase="running", job_id=job_id, exit_code=None
        )
        self._driver: subprocess.Popen | None = None
        self._is_stopping = False
        self._has_begun = False  # the sweep; later it may be out of reach for a while
        record.write_state(self._state)

    def run(self) -> int:
        """Drive the sweep to its end; returns the exit code that it ended with."""
        signal.signal(signal.SIGTERM, self._stop)
        n_fruitless, n_epochs = 0, self._n_epochs()
        while True:
            code = INTERRUPTED if self._wait_for_other_driver() else self._drive()
            if self._is_stopping:
                return self._end("stopped", code if code in (DONE, FAILED) else INTERRUPTED)
            if self._is_final(code, n_fruitless):
                return self._end("stopped" if code == INTERRUPTED else "ended", code)
            has_progressed = self._n_epochs() > n_epochs
            n_fruitless, n_epochs = 0 if has_progressed else n_fruitless + 1, self._n_epochs()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if n_fruitless > _MOST_FRUITLESS_RESTARTS:
                say(f"the driver {how}, {n_fruitless} times without a new epoch; giving up")
                return self._end("given up", FAILED)
            seconds = _SECONDS_BEFORE_RESTART * 2**n_fruitless
            say(f"the driver {how}; it is started again in {seconds:g} s")
            self._note(n_restarts=self._state.n_restarts + 1)
            self._sleep(seconds)

    def _stop(self, signal_number: int, frame: Any) -> None:
        """Tell the driver to end. Ray may have told it too; a second signal changes nothing."""
        self._is_stopping = True
        if self._driver is not None:
            self._driver.send_signal(signal.SIGTERM)

    def _drive(self) -> int:
        """Run a driver; returns its exit code, or less than 0 for the signal that killed it."""
        name, submitted = self._submitted.name, self._submitted
        where = ["--sweeps-folder", str(self._sweeps_folder), "--address", "auto"]
        if self._sweep() is None and not self._has_begun:
            command = ["sweep", *where, *submitted.arguments]
        else:
            command = ["resume", *where, *(submitted.resume_arguments or ()), name]
        say(f"thaw {command[0]} {name}")
        driver = subprocess.Popen(
            [*_THAW, *command], cwd=self._record.files, env=self._environment()
        )
        self._driver = driver
        if self._is_stopping:  # told so while there was none to tell
            driver.send_signal(signal.SIGTERM)
        code = None
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = driver.wait(_SECONDS_BETWEEN_LOOKS)
            if self._state.folder is None:
                self._sweep()
        self._driver = None
        return code

    def _environment(self) -> dict[str, str]:
        environment = plain_environment()
        if isinstance(self._sweeps_folder, Path):
            mlflow = self._sweeps_folder / "mlflow.db"
            mlflow.parent.mkdir(parents=True, exist_ok=True)
            environment.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow}")
        if self._submitted.sends_data:
            environment[FILES_VARIABLE] = str(self._record.files)
        return environment

    def _wait_for_other_driver(self) -> bool:
        """Wait for the driver of a supervisor that was lost; True if told to stop meanwhile."""
        is_said = False
        while not self._is_stopping:
            sweep = self._sweep()
            if sweep is None:
                return False
            try:
                with sole_driver(sweep.name, sweep.folder):
                    return False
            except InputError as error:
                if not is_said:
                    say(f"{error}; waiting for that to end")
                    is_said = True
            self._sleep(2.0)
        return True

    def _is_final(self, code: int, n_fruitless: int) -> bool:
        """Whether a driver that ended with this code has decided how the sweep ends."""
        if code in (DONE, INTERRUPTED):
            return True
        sweep = self._sweep()
        if code == WRONG_INPUT:
            # What worked before is not wrong input: the cluster is at fault, and may recover.
            return not self._has_begun or n_fruitless >= _MOST_FRUITLESS_RESTARTS
        return code == FAILED and sweep is not None and _is_said_to_have_failed(sweep)

    def _sweep(self) -> Sweep | None:
        """The sweep, once it has begun."""
        sweep = find_sweep(self._submitted.name, self._sweeps_folder)
        self._has_begun |= sweep is not None
        if sweep is not None and self._state.folder != str(sweep.folder):
            self._note(folder=str(sweep.folder))
        return sweep

    def _n_epochs(self) -> int:
        sweep = self._sweep()
        return 0 if sweep is None else n_epochs(sweep.folder)

    def _note(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        self._record.write_state(self._state)

    def _end(self, phase: Any, code: int) -> int:
        self._note(phase=phase, exit_code=code)
        return code

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._is_stopping and time.monotonic() < until:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def n_epochs(folder: Path) -> int:
    """How far a sweep has come: the epochs in its record."""
    with suppress(OSError, ValueError):
        return sum(event["event"] == "epoch" for event in read_events(folder))
    return 0


def _is_said_to_have_failed(sweep: Sweep) -> bool:
    """Whether the record says that the newest sitting ended as a failure.

    The driver's exit code does not tell: Ray ends a driver with 1, too.
    """
    kinds = ("sitting_started", "sweep_ended")
    with suppress(OSError, ValueError, IndexError):  # the last: no sitting has begun
        newest = [event for event in read_events(sweep.folder) if event["event"] in kinds][-1]
        if newest["event"] == "sweep_ended" and newest.get("ended_by") != CRASHED.by:
            return has_failed(summarize(sweep, read_history(sweep.folder)))
    return False


def say(message: str) -> None:
    print(PREFIX + message, flush=True)


def find_sweep(name: str, sweeps_folder: Any) -> Sweep | None:
    """A sweep, once it has begun."""
    try:
        return open_sweep(name, sweeps_folder)
    except InputError:
        return None


def plain_environment() -> dict[str, str]:
    """This process's environment, without the files that Ray has sent with its job."""
    environment = dict(os.environ)
    if JOB_CONFIG_VARIABLE in environment:
        config = json.loads(environment[JOB_CONFIG_VARIABLE])
        environment[JOB_CONFIG_VARIABLE] = json.dumps({**config, "runtime_env": {}})
    return environment
