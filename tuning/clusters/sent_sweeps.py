"""What a cluster has of a submitted sweep: how it stands, and its results, fetched."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import InputError, RunFailed
from trainables.files import whole_folder
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.submission import jobs_of, kept_state, state_of, sweep_jobs
from tuning.clusters.watcher import shown
from tuning.record.events import EVENTS_FILE, SweepHistory, read_history
from tuning.record.standings import best_trial
from tuning.record.sweep import SWEEP_FILE, Sweep
from tuning.record.uris import is_uri
from tuning.session.summary import summarize
from tuning.storage.checkpoints import best_key
from tuning.storage.disk import folder_bytes
from tuning.storage.open_store import store_of
from tuning.storage.saved_sweeps import open_sweep

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

FETCHED_FILE = "fetched.json"  # in a fetched folder: where it came from
SUMMARY_FILE = "summary.json"
_N_TRIES = 3  # at getting record and checkpoint of the same moment
_N_LAST_LINES = 12


def list_sweeps(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Every submitted sweep that the cluster knows of, newest last."""
    rows = [_job_document(dashboard, name, jobs) for name, jobs in sweep_jobs(dashboard).items()]
    return sorted(rows, key=lambda row: str(row["started"]))


def _job_document(dashboard: Dashboard, name: str, jobs: list[JobDetails]) -> dict[str, Any]:
    newest = jobs[-1]
    return {
        "sweep": name,
        "state": state_of(dashboard, newest),
        "job": newest.submission_id,
        "exit_code": newest.driver_exit_code,
        "started": _iso(jobs[0].start_time),
        "ended": _iso(newest.end_time),
    }


def _iso(milliseconds: int | None) -> str | None:
    if not milliseconds:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(milliseconds / 1000))


def describe_sweep(dashboard: Dashboard, name: str) -> dict[str, Any]:
    """How a submitted sweep stands, with the summary of what has come of it so far.

    Raises:
        InputError: the cluster knows no such sweep.
    """
    jobs = jobs_of(dashboard, name)
    kept = kept_state(dashboard, name)
    document = {
        **_job_document(dashboard, name, jobs),
        "driver_restarts": kept.get("n_restarts", 0),
        "job_restarts": kept.get("n_revivals", 0),
        "summary": None,
        "last_lines": [],
    }
    with tempfile.TemporaryDirectory(prefix="thaw-status-") as folder:
        found = read_sweep(dashboard, name, Path(folder) / name)
        if found is not None:
            document["summary"] = _summary_there(*found)
    if document["state"] not in ("running", "done"):
        document["last_lines"] = last_lines(dashboard, jobs[-1])
    return document


def _summary_there(sweep: Sweep, history: SweepHistory) -> dict[str, Any]:
    """A summary with the cluster's paths. Only the cluster knows which checkpoints are kept."""
    summary = summarize(sweep, history)
    if summary["best"] is not None:
        summary["best"]["checkpoint"] = None
    return {
        **summary,
        "n_trials": sweep.trials,
        "searched": list(sweep.space.domains),
        "folder": sweep.began_in or str(sweep.folder),
    }


def last_lines(dashboard: Dashboard, job: JobDetails) -> list[str]:
    """The end of what a job has printed, without what Ray adds."""
    try:
        lines = [line for line in dashboard.log(job.submission_id) if line.strip()]
    except RunFailed as error:
        return [f"its log can not be read: {error}"]
    return [line for line in lines if not is_of_ray(line)][-_N_LAST_LINES:]


def is_of_ray(line: str) -> bool:
    """Whether a line of a job's log is Ray's own."""
    return "job_manager.py" in line or line.startswith("Running entrypoint for job ")


def read_sweep(dashboard: Dashboard, name: str, folder: Path) -> tuple[Sweep, SweepHistory] | None:
    """Bring a sweep's description and record to ``folder``; None while it has not begun."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (SWEEP_FILE, EVENTS_FILE):
        content = dashboard.read(shown(name, file))
        if content is None:
            return None
        (folder / file).write_bytes(content)
    return open_sweep(str(folder), folder.parent), read_history(folder)


def fetch_sweep(dashboard: Dashboard, name: str, target: Path) -> dict[str, Any]:
    """Bring a sweep's record, study, code and best checkpoint to the folder ``target``.

    Raises:
        InputError: the cluster knows no such sweep, it has not begun, or ``target`` is something
            else than an earlier copy of it.
        RunFailed: its best checkpoint changes faster than it can be fetched.
    """
    jobs_of(dashboard, name)
    if target.exists() and not (target / FETCHED_FILE).is_file():
        raise InputError(
            f"--to {str(target)!r}: exists, and is not a fetched sweep; choose another folder"
        )
    with whole_folder(target) as partial:
        for _ in range(_N_TRIES):
            found = read_sweep(dashboard, name, partial)
            if found is None:
                raise InputError(f"sweep {name} has not begun, so there is nothing to fetch yet")
            sweep, history = found
            best = _best(sweep, history)
            checkpoint = None
            if best is not None:
                checkpoint = _fetch_checkpoint(dashboard, sweep, partial, best_key(best[0]))
            again = read_sweep(dashboard, name, partial)
            if again is not None and _best(*again) == best:
                break
        else:
            raise RunFailed(
                f"the best checkpoint of sweep {name} changed while it was copied; try again"
            )
        _fetch_small_files(dashboard, name, partial)
        came_from = {"cluster": dashboard.url, "folder": sweep.began_in}
        (partial / FETCHED_FILE).write_text(json.dumps(came_from))
    return _fetched(name, target, checkpoint)


def _fetched(name: str, target: Path, checkpoint: Path | None) -> dict[str, Any]:
    """What was fetched, as a document. Its summary is also written into the folder."""
    sweep = open_sweep(str(target), target.parent)
    summary = summarize(sweep, read_history(target))
    (target / SUMMARY_FILE).write_text(json.dumps(summary, indent=1))
    return {
        "sweep": name,
        "folder": str(target),
        "bytes": folder_bytes(target),
        "checkpoint": None if checkpoint is None else str(target / checkpoint),
        "summary": summary,
    }


def _best(sweep: Sweep, history: SweepHistory) -> tuple[int, int | None] | None:
    """The number of the best trial and its best epoch; None where there is none yet."""
    try:
        trial = best_trial(sweep, history)
    except InputError:
        return None
    return trial.number, trial.best_epoch(sweep.metric, sweep.mode)


def _fetch_checkpoint(dashboard: Dashboard, sweep: Sweep, folder: Path, key: str) -> Path | None:
    """Returns where the checkpoint of ``key`` is, below ``folder``; None if it is not kept."""
    shutil.rmtree(folder / key, ignore_errors=True)  # of an earlier try
    if is_uri(sweep.began_in):
        # Checkpoints are at the sweep's home alone, for which this machine has its own key.
        try:
            found = store_of(replace(sweep, home=sweep.began_in)).get(key)
        except OSError as error:
            raise RunFailed(f"sweep {sweep.name}: {error}") from error
        if found is not None:
            shutil.copytree(found, folder / key)
        return None if found is None else Path(key)
    prefix = shown(sweep.name, "")
    files = dashboard.files(shown(sweep.name, f"{key}/**/*"))
    for file in files:
        dashboard.download(file, folder / file.removeprefix(prefix))
    return Path(key) if files else None


def _fetch_small_files(dashboard: Dashboard, name: str, folder: Path) -> None:
    prefix = shown(name, "")
    for pattern in ("*", "searcher/*"):  # its record, study and code
        for file in dashboard.files(shown(name, pattern)):
            place = folder / file.removeprefix(prefix)
            if not place.exists() and not place.name.endswith((".lock", "driver.json")):
                dashboard.download(file, place)
