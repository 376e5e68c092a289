"""An actor on the head that starts a submitted sweep's job again when Ray has lost it.

A job's supervisor restarts its driver; what restarts the job, whose every process Ray kills with
the job's actor, is this. It takes no CPU, Ray restarts it when it dies, and it needs no memory:
all it knows is what the head keeps of submitted sweeps. When all of Ray is started anew, the
cluster's start commands start it anew (``python -m tuning.clusters.supervise prepare``), and it
starts the sweeps again that had not ended. It does not survive the loss of the head's disk.

It also shows those sweeps among Ray's logs, which are what the dashboard lets people read.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from trainables.files import write_whole
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.jobs import (
    SWEEP_KEY,
    JobRecord,
    State,
    all_records,
    next_job_id,
    sweeps_folder_of,
)
from tuning.clusters.supervisor import JOB_CONFIG_VARIABLE, n_epochs
from tuning.user_code.versions import installed_versions

SHOWN = "thaw"  # the folder among Ray's logs
VERSIONS_FILE = f"{SHOWN}/versions.json"
JOB_LINK, SWEEP_LINK = "job", "sweep"  # in SHOWN/NAME

NAME, NAMESPACE = "thaw-watcher", "thaw"
_SECONDS_BETWEEN_LOOKS = 3.0
_MOST_FRUITLESS_REVIVALS = 5
STOP_SECONDS = 300  # that a sweep has to end in order, before Ray kills it


def shown(name: str, file: str, link: str = SWEEP_LINK) -> str:
    """Where a file of a submitted sweep is among Ray's logs."""
    return f"{SHOWN}/{name}/{link}/{file}"


def start_job(dashboard: Dashboard, name: str, job_id: str, sent: str | None = None) -> None:
    """Have a job of Ray's drive a sweep.

    Args:
        name: the sweep's. Names hold nothing that a shell would take.
        sent: an archive of what was submitted; None where the head has kept that.
    """
    command = f"exec python -m tuning.clusters.supervise run {name} '{job_id}'"
    dashboard.submit(
        job_id,
        command if sent is None else f"{command} sent",
        metadata={SWEEP_KEY: name},
        runtime_env={
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
            **({} if sent is None else {"working_dir": sent}),
        },
    )


def prepare() -> None:
    """Show on this head what is installed, and see to it that there is a watcher."""
    os.environ.pop(JOB_CONFIG_VARIABLE, None)  # else the watcher would need the files of a job
    from tuning.engines.ray_environment import prepare_ray

    prepare_ray()
    import ray

    context = ray.init(
        address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR"
    )
    logs = Path(context.address_info["session_dir"]) / "logs"
    show_versions(logs)
    for record in all_records():
        show_sweep(record, logs)
    _ensure_watcher(logs)


def _ensure_watcher(logs: Path) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    watcher = (
        ray.remote(Watcher)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=here,
        )
        .remote(logs)
    )
    ray.get(watcher.is_watching.remote(), timeout=120)


class Watcher:
    """Looks after submitted sweeps for as long as Ray runs."""

    def __init__(self, logs: Path) -> None:
        """Begin; ``logs`` is where Ray keeps this head's logs in this session."""
        self._thread = threading.Thread(target=_watch, args=(logs,), daemon=True)
        self._thread.start()

    def is_watching(self) -> bool:
        return self._thread.is_alive()


def _watch(logs: Path) -> None:
    dashboard = None
    while True:
        for record in all_records():
            try:
                show_sweep(record, logs)
                dashboard = dashboard or _own_dashboard()
                look_after(record, dashboard)
            except Exception as error:  # whatever it is, it may be over at the next look
                what = f"{type(error).__name__}: {error}"
                print(f"thaw-watcher: sweep {record.folder.name}: {what}", flush=True)
                dashboard = None
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _own_dashboard() -> Dashboard:
    """This cluster's dashboard; the head's own token opens it."""
    import ray
    from ray.dashboard.utils import ray_address_to_api_server_url

    from tuning.doctor.auth_token import read_token

    address = ray.get_runtime_context().gcs_address
    return Dashboard(ray_address_to_api_server_url(address), read_token())


def show_versions(logs: Path) -> None:
    """Show what is installed here to those who are about to submit something."""
    path = logs / VERSIONS_FILE
    path.parent.mkdir(exist_ok=True)
    write_whole(path, json.dumps(installed_versions()))


def show_sweep(record: JobRecord, logs: Path) -> None:
    """Link a submitted sweep, and what is kept of it, from Ray's logs."""
    state = record.state()
    folder = None if state is None else state.folder
    place = logs / SHOWN / record.folder.name
    place.mkdir(parents=True, exist_ok=True)
    links = {JOB_LINK: str(record.folder)} | ({} if folder is None else {SWEEP_LINK: folder})
    for name, target in links.items():
        link = place / name
        if link.is_symlink() and os.readlink(link) == target:
            continue
        with suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(target)


def look_after(record: JobRecord, dashboard: Dashboard) -> None:
    """Start a sweep's job again if that is gone, and nobody has ended the sweep.

    Raises:
        RunFailed: the dashboard does not answer, or does not take the job.
    """
    state = record.state()
    if state is None or state.phase != "running":
        return
    job = dashboard.job(state.job_id)
    if job is not None and not job.status.is_terminal():
        return
    state = record.state()  # anew: a supervisor writes its last word before its job ends
    if state is None or state.phase != "running":
        return
    if job is not None and job.status == "STOPPED":  # too slow to stop, so that Ray killed it
        record.write_state(replace(state, phase="stopped"))
        return
    revived = _revived(record, state, is_known=job is not None)
    record.write_state(revived)
    if revived.phase == "running":
        start_job(dashboard, record.folder.name, revived.job_id)


def _revived(record: JobRecord, state: State, *, is_known: bool) -> State:
    """The state with a new job, or given up after five jobs without a new epoch."""
    if not is_known:  # Ray was started anew, or did not take the job the last time
        return state
    submitted = record.submitted()
    folder = state.folder or str(Path(sweeps_folder_of(submitted)) / submitted.name)
    n_now = n_epochs(Path(folder))
    n_fruitless = 0 if n_now > state.n_epochs_then else state.n_fruitless_revivals + 1
    return replace(
        state,
        phase="running" if n_fruitless <= _MOST_FRUITLESS_REVIVALS else "given up",
        job_id=next_job_id(state.job_id),
        n_revivals=state.n_revivals + 1,
        n_fruitless_revivals=n_fruitless,
        n_epochs_then=n_now,
    )
