"""Runs on a cluster's head: drives a submitted sweep to its end, whatever its driver dies of.

``python -m tuning.clusters.supervise run NAME JOB_ID [sent]`` is the entrypoint of a submitted
sweep's job; with ``sent`` what was submitted lies in the working folder, else the head has kept it.
``python -m tuning.clusters.supervise prepare`` is for the cluster's own start commands: see
watcher.py.

A driver that ends with an exit code of ours has had its say. Any other end, such as a signal, or
Ray ending it, is followed by ``thaw resume``: at most three times without an epoch between.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import InputError, RunFailed
from tuning.clusters.jobs import JOB_FILE, JobRecord, State, Submitted, job_record, jobs_folder
from tuning.clusters.jobs import sweeps_folder as default_sweeps_folder
from tuning.control.goals import CRASHED
from tuning.record.events import read_events
from tuning.record.sweep import Sweep
from tuning.storage.driver_lock import sole_driver
from tuning.storage.saved_sweeps import open_sweep
from tuning.user_code.sent_files import FILES_VARIABLE
from tuning.user_code.versions import installed_versions

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
PREFIX = "supervisor: "  # of lines that are ours, in a log that is the driver's
SWEEPS_VARIABLE = "THAW_SWEEPS_FOLDER"

_MOST_FRUITLESS_RESTARTS = 3
_SECONDS_BEFORE_RESTART = 2.0  # and twice as long each further time
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_PREPARE = 120.0
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # how Ray hands a job's settings to its driver
# -P: a file of the user's in the working folder must not be taken for a library.
_THAW = [sys.executable, "-P", "-c", "from tuning.command_line.cli import console; console()"]


def main() -> None:
    """Do as the command line says, and exit with the sweep's exit code."""
    try:
        match sys.argv[1:]:
            case ["prepare"]:
                from tuning.clusters.watcher import prepare

                prepare()
            case ["run", name, job_id]:
                sys.exit(_run(name, job_id, None))
            case ["run", name, job_id, "sent"]:
                sys.exit(_run(name, job_id, Path.cwd()))
            case _:
                raise InputError(
                    f"wrong arguments {sys.argv[1:]}; see tuning/clusters/supervise.py"
                )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


def say(message: str) -> None:
    print(PREFIX + message, flush=True)


def _run(name: str, job_id: str, sent: Path | None) -> int:
    record = job_record(name)
    with _sole_supervisor(name):
        submitted = record.submitted() if sent is None else _take_in(record, sent)
        _check_version(submitted)
        supervisor = Supervisor(record, submitted, job_id)
        preparing = subprocess.Popen(
            [sys.executable, "-P", "-m", "tuning.clusters.supervise", "prepare"],
            env=_plain_environment(),
        )
        try:
            return supervisor.run()
        finally:
            with suppress(subprocess.TimeoutExpired):  # it would end with the job
                preparing.wait(_SECONDS_TO_PREPARE)


@contextmanager
def _sole_supervisor(name: str) -> Iterator[None]:
    """Be the only supervisor of a sweep on this head; the lock dies with the process."""
    jobs_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(jobs_folder() / f".{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"sweep {name} is run already, by another job") from None
    try:
        yield
    finally:
        lock.release()


def _take_in(record: JobRecord, sent: Path) -> Submitted:
    """Keep what was sent, beyond the job that it came with."""
    submitted = Submitted(**json.loads((sent / JOB_FILE).read_text()))
    files, found = sent / record.files.name, _find(submitted.name, sweeps_folder_of(submitted))
    if submitted.resume_arguments is not None:
        if record.exists:
            record.go_on_with(submitted, files)
        elif found is None:
            raise InputError(f"--resume {submitted.name!r}: there is no such sweep on the cluster")
        else:
            record.install(submitted, files)
        return record.submitted()
    if found is not None:
        raise InputError(
            f"--name {submitted.name!r}: that sweep exists already on the cluster, in "
            f"{str(found.folder)!r}; `thaw submit --resume {submitted.name}` continues it, another "
            "--name starts a new one"
        )
    record.install(submitted, files)
    return submitted


def _find(name: str, sweeps_folder: Any) -> Sweep | None:
    """A sweep, if it has begun."""
    try:
        return open_sweep(name, sweeps_folder)
    except InputError:
        return None


def _check_version(submitted: Submitted) -> None:
    theirs, ours = submitted.versions.get("thaw"), installed_versions().get("thaw")
    if theirs is not None and theirs != ours:
        raise InputError(f"submitted with Thaw {theirs}, and this cluster has {ours}")


def sweeps_folder_of(submitted: Submitted) -> Any:
    """Where a submitted sweep is, or will be: a path, or a URI as it is."""
    given = submitted.sweeps_folder or os.environ.get(SWEEPS_VARIABLE)
    if given is None:
        return default_sweeps_folder()
    return given if "://" in given else Path.home() / Path(given).expanduser()


def _plain_environment() -> dict[str, str]:
    """This process's, but that what it starts does not inherit the files that Ray sent it with."""
    environment = dict(os.environ)
    if JOB_CONFIG_VARIABLE in environment:
        config = json.loads(environment[JOB_CONFIG_VARIABLE])
        environment[JOB_CONFIG_VARIABLE] = json.dumps({**config, "runtime_env": {}})
    return environment


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
        self._has_begun = False  # the sweep; that it can not be found may pass
        # Of a URI the folder is known when the sweep has begun.
        folder = None if "://" in str(self._sweeps_folder) else self._sweeps_folder / submitted.name
        self._note(folder=self._state.folder if folder is None else str(folder))

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
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if n_fruitless > _MOST_FRUITLESS_RESTARTS:
                say(f"the driver was {how} {n_fruitless} times without an epoch between; giving up")
                return self._end("given up", FAILED)
            seconds = _SECONDS_BEFORE_RESTART * 2**n_fruitless
            say(f"the driver was {how}; it is started again in {seconds:g} s")
            self._note(n_restarts=self._state.n_restarts + 1)
            self._sleep(seconds)

    def _stop(self, signal_number: int, frame: Any) -> None:
        """Ray tells the whole job to end. The driver may have been told as well; once counts."""
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
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = driver.wait(_SECONDS_BETWEEN_LOOKS)
                self._driver = None
                return code
            if self._state.folder is None:
                self._sweep()

    def _environment(self) -> dict[str, str]:
        environment = _plain_environment()
        if "://" not in str(self._sweeps_folder):
            mlflow = Path(self._sweeps_folder) / "mlflow.db"
            mlflow.parent.mkdir(parents=True, exist_ok=True)
            environment.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow}")
        if self._submitted.sends_data:
            environment[FILES_VARIABLE] = str(self._record.files)
        return environment

    def _wait_for_other_driver(self) -> bool:
        """Wait while a driver that a lost supervisor has left still runs; True if told to stop."""
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
        """Whether a driver that ended so has had its say."""
        if code in (DONE, INTERRUPTED):
            return True
        sweep = self._sweep()
        if code == WRONG_INPUT:
            # Of a sweep that ran before, the cluster is what is wrong, and it may recover.
            return not self._has_begun or n_fruitless >= _MOST_FRUITLESS_RESTARTS
        return code == FAILED and sweep is not None and _has_ended(sweep)

    def _sweep(self) -> Sweep | None:
        """The sweep, once it has begun."""
        sweep = _find(self._submitted.name, self._sweeps_folder)
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


def _has_ended(sweep: Sweep) -> bool:
    """Whether the newest sitting came to an end of its own, and not by an error in Thaw."""
    ending: Mapping[str, Any] | None = None
    with suppress(OSError, ValueError):
        for event in read_events(sweep.folder):
            if event["event"] == "sitting_started":
                ending = None
            elif event["event"] == "sweep_ended":
                ending = event
    return ending is not None and ending.get("ended_by") != CRASHED.by


if __name__ == "__main__":
    main()
