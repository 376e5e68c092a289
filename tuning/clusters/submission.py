"""Sends a sweep to a cluster as a job of Ray's, and finds such jobs again."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from trainables.errors import InputError, RunFailed, unknown
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.jobs import FILES, JOB_FILE, STATE_FILE, SWEEP_KEY, Submitted, next_job_id
from tuning.clusters.package import Package, make_archive
from tuning.clusters.watcher import JOB_LINK, STOP_SECONDS, VERSIONS_FILE, shown, start_job
from tuning.user_code.versions import DECIDING, differing, installed_versions

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_SECONDS_TO_PREPARE = 180.0
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_FOR_REVIVAL = 60.0  # of a job that is lost

# how a job stands, in the words of `thaw status`
_STATES = {"PENDING": "pending", "RUNNING": "running", "SUCCEEDED": "done", "STOPPED": "stopped"}
_ENDED_STATES = {0: "done", 1: "failed", 2: "wrong input", 130: "stopped"}  # by exit code
LOST = "lost"  # its process ended without an exit code of ours: the watcher starts it again


def check_versions(dashboard: Dashboard) -> str | None:
    """Compare what is installed here and on the cluster's head, before anything is sent.

    Returns:
        What differs without standing in the way, as a sentence; None if nothing does.

    Raises:
        InputError: Python, Ray or Thaw differ.
        RunFailed: the cluster does not say what it has.
    """
    here, there = installed_versions(), {"ray": dashboard.ray_version()}
    _refuse(differing({"ray": here["ray"]}, there))
    shown = dashboard.read(VERSIONS_FILE)
    if shown is None:
        _prepare(dashboard)
        shown = dashboard.read(VERSIONS_FILE)
    if shown is None:
        raise RunFailed("the cluster's head does not say what is installed there")
    different = differing(here, {**json.loads(shown), **there})
    _refuse(different)
    if "code" not in different:
        return None
    return (
        f"both have Thaw {here.get('thaw')}, but the cluster's code differs from the code here. "
        "The sweep runs the cluster's code; `ray up --no-restart` brings it up to date"
    )


def _refuse(different: Mapping[str, str]) -> None:
    """Raise InputError where something differs that must not."""
    if deciding := [different[name] for name in DECIDING if name in different]:
        raise InputError(
            f"versions differ: {'; '.join(deciding)}; nothing was sent. Install the same "
            "versions: `uv sync` does so here, `ray up` on the cluster"
        )


def _prepare(dashboard: Dashboard) -> None:
    """Have the head show its versions. One that was not started by our files does not yet."""
    command = "python -m tuning.clusters.supervise prepare"
    job, lines = run_job(dashboard, "thaw-prepare", command, _SECONDS_TO_PREPARE)
    if job.driver_exit_code == 0:
        dashboard.delete(job.submission_id)
        return
    log = "\n".join(lines).strip()
    if "No module named" in log or "not found" in log:
        raise InputError(
            "Thaw is not installed on the cluster's head, or not in the Python that Ray runs its "
            f"jobs in: {log.splitlines()[-1]}"
        )
    raise RunFailed(f"the cluster's head can not be prepared; its job says:\n{log}")


def run_job(
    dashboard: Dashboard, prefix: str, command: str, seconds: float
) -> tuple[JobDetails, list[str]]:
    """Run a command on the head to its end; how it ended, and what it has printed.

    Raises:
        RunFailed: it does not run, or goes on for longer than ``seconds``, and is stopped.
    """
    job_id = f"{prefix}-{uuid.uuid4().hex[:8]}"
    dashboard.submit(job_id, command)
    try:
        job = wait_until_ended(dashboard, job_id, seconds)
    except RunFailed:
        dashboard.stop(job_id)
        raise
    return job, dashboard.log(job_id)


def wait_until_ended(dashboard: Dashboard, job_id: str, seconds: float) -> JobDetails:
    """Wait for a job to end.

    Raises:
        RunFailed: it is gone, or goes on for longer.
    """
    until = time.monotonic() + seconds
    while True:
        job = dashboard.job(job_id)
        if job is None:
            raise RunFailed(f"the cluster no longer knows job {job_id}")
        if job.status.is_terminal():
            return job
        if time.monotonic() > until:
            raise RunFailed(f"job {job_id} has not ended within {seconds:g} s")
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def has_ended(dashboard: Dashboard, job: JobDetails) -> bool:
    """Whether a job has ended by now, or the cluster has forgotten it."""
    now = dashboard.job(job.submission_id)
    return now is None or bool(now.status.is_terminal())


def sweep_jobs(dashboard: Dashboard) -> dict[str, list[JobDetails]]:
    """The jobs of every submitted sweep that the cluster knows of, oldest first."""
    found: dict[str, list[JobDetails]] = {}
    for job in dashboard.jobs():
        if name := (job.metadata or {}).get(SWEEP_KEY):
            found.setdefault(name, []).append(job)
    return found


def jobs_of(dashboard: Dashboard, name: str) -> list[JobDetails]:
    """The jobs of one sweep, oldest first.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    found = sweep_jobs(dashboard)
    if name not in found:
        message = unknown("sweep", name, found) if found else f"unknown sweep {name!r}"
        raise InputError(f"{message}; looked among the jobs of {dashboard.url}")
    return found[name]


def log_file(job_id: str) -> str:
    """Where Ray keeps what a job prints, among its logs."""
    return f"job-driver-{job_id}.log"


def kept_state(dashboard: Dashboard, name: str) -> dict[str, Any]:
    """What the head keeps of a sweep's ``State``; nothing before its first job has begun."""
    kept: dict[str, Any] = json.loads(dashboard.read(shown(name, STATE_FILE, JOB_LINK)) or b"{}")
    return kept


def state_of(dashboard: Dashboard, job: JobDetails) -> str:
    """How a sweep's job stands. If Ray does not know how it ended, its supervisor may."""
    if job.status != "FAILED":
        return _STATES[job.status]
    code = job.driver_exit_code
    if code not in _ENDED_STATES:
        kept = kept_state(dashboard, job.metadata[SWEEP_KEY])
        code = kept.get("exit_code") if kept.get("job_id") == job.submission_id else None
    return _ENDED_STATES.get(code, LOST)


def exit_code_for(state: str) -> int:
    """What a command exits with that has followed a sweep until this state."""
    codes = {ended: code for code, ended in _ENDED_STATES.items()}
    return 1 if state == LOST else codes.get(state, 0)


def submit(dashboard: Dashboard, submitted: Submitted, package: Package) -> str:
    """Send a sweep; returns the id of its job.

    Raises:
        InputError: it is too large, or a sweep of that name is there, or runs.
    """
    package.check_size()
    job_id = _free_job_id(dashboard, submitted)
    description = {JOB_FILE: json.dumps(asdict(submitted)).encode()}
    files = {f"{FILES}/{place}": path for place, path in package.files.items()}
    with tempfile.NamedTemporaryFile(prefix="thaw-submit-", suffix=".zip") as archive:
        archive.write(make_archive(files, description))
        archive.flush()
        start_job(dashboard, submitted.name, job_id, archive.name)
    return job_id


def _free_job_id(dashboard: Dashboard, submitted: Submitted) -> str:
    name = submitted.name
    jobs = sweep_jobs(dashboard).get(name, [])
    if not jobs:
        return name
    newest = jobs[-1]
    state = state_of(dashboard, newest)
    if not newest.status.is_terminal():
        raise InputError(
            f"sweep {name} is {state} on this cluster already; `thaw status {name}`, "
            "or another --name"
        )
    if submitted.resume_arguments is None and state != "wrong input":
        raise InputError(
            f"--name {name!r}: a sweep of that name was submitted to this cluster before; `thaw "
            f"submit --resume {name}` continues it, another --name starts a new one"
        )
    return next_job_id(newest.submission_id)


def stop_sweep(dashboard: Dashboard, name: str, say: Callable[[str], None]) -> None:
    """Interrupt a sweep, and wait until it has put everything in order; it can be resumed.

    Raises:
        InputError: the cluster knows no such sweep.
        RunFailed: it does not end.
    """
    job = newest_job(dashboard, name)
    if job.status.is_terminal():
        return
    say(f"stopping sweep {name}, and waiting until its trials have ended and all is written …")
    dashboard.stop(job.submission_id)
    wait_until_ended(dashboard, job.submission_id, STOP_SECONDS + 30.0)


def newest_job(dashboard: Dashboard, name: str) -> JobDetails:
    """The newest job of a sweep. If it is lost, the one that goes on, if that comes in a minute.

    Raises:
        InputError: the cluster knows no such sweep.
    """
    until = time.monotonic() + _SECONDS_FOR_REVIVAL
    while True:
        job = jobs_of(dashboard, name)[-1]
        if state_of(dashboard, job) != LOST or time.monotonic() > until:
            return job
        time.sleep(_SECONDS_BETWEEN_LOOKS)
