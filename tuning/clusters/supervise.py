"""The programs that run on a cluster's head: a submitted sweep's job, and the head's preparation.

``python -m tuning.clusters.supervise run NAME JOB_ID [sent]`` is the command of a submitted sweep's
job. With ``sent``, the working folder holds what was submitted; else the head has kept it.
``python -m tuning.clusters.supervise prepare`` is one of the cluster's own start commands: see
watcher.py.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import InputError, RunFailed
from tuning.clusters.jobs import JobRecord, Submitted, job_record, jobs_folder, sweeps_folder_of
from tuning.clusters.supervisor import (
    FAILED,
    WRONG_INPUT,
    Supervisor,
    find_sweep,
    plain_environment,
)
from tuning.user_code.versions import installed_versions

_SECONDS_TO_PREPARE = 120.0
_BROKEN = 70  # what sysexits.h calls EX_SOFTWARE; the watcher starts the job again


def main() -> None:
    """Do as the command line says, and exit with the sweep's exit code."""
    try:
        match sys.argv[1:]:
            case ["prepare"]:
                from tuning.clusters.watcher import prepare

                prepare()
            case ["run", name, job_id, *more] if more in ([], ["sent"]):
                sys.exit(_run(name, job_id, Path.cwd() if more else None))
            case wrong:
                raise InputError(f"wrong arguments {wrong}; see tuning/clusters/supervise.py")
    except (InputError, RunFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT if isinstance(error, InputError) else FAILED)
    except Exception:  # Python would exit with 1, which says that the sweep has failed
        traceback.print_exc()
        sys.exit(_BROKEN)


def _run(name: str, job_id: str, sent: Path | None) -> int:
    record = job_record(name)
    with _sole_supervisor(name):
        submitted = record.submitted() if sent is None else _take_in(record, sent)
        _check_version(submitted)
        supervisor = Supervisor(record, submitted, job_id)
        preparing = subprocess.Popen(
            [sys.executable, "-P", "-m", "tuning.clusters.supervise", "prepare"],
            env=plain_environment(),
        )
        try:
            return supervisor.run()
        finally:
            with suppress(subprocess.TimeoutExpired):  # it would end with the job
                preparing.wait(_SECONDS_TO_PREPARE)


def _sole_supervisor(name: str) -> AbstractContextManager[Any]:
    """Be the only supervisor of a sweep on this head; the lock dies with the process."""
    jobs_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return FileLock(jobs_folder() / f".{name}.lock", timeout=0).acquire()
    except Timeout:
        raise InputError(f"another job runs sweep {name} already") from None


def _take_in(record: JobRecord, sent: Path) -> Submitted:
    """Keep what was sent, because Ray deletes it when the job has ended."""
    submitted, files = JobRecord(sent).submitted(), JobRecord(sent).files
    name = submitted.name
    found = find_sweep(name, sweeps_folder_of(submitted))
    is_resume = submitted.resume_arguments is not None
    if is_resume and record.exists:
        record.go_on_with(submitted, files)
    elif is_resume and found is None:
        raise InputError(f"--resume {name!r}: there is no such sweep on the cluster")
    elif found is not None and not is_resume:
        raise InputError(
            f"--name {name!r}: the cluster has a sweep of that name already, in "
            f"{str(found.folder)!r}; `thaw submit --resume {name}` continues it, another --name "
            "starts a new one"
        )
    else:
        record.install(submitted, files)
    return record.submitted()


def _check_version(submitted: Submitted) -> None:
    theirs, ours = submitted.versions.get("thaw"), installed_versions().get("thaw")
    if theirs is not None and theirs != ours:
        raise InputError(f"submitted with Thaw {theirs}, and this cluster has {ours}")


if __name__ == "__main__":
    main()
