"""What the head keeps of each submitted sweep, to start it again whatever was lost.

    ~/.thaw/jobs/NAME/
      job.json      what was submitted: the command line, and who did so with which versions
      state.json    how it stands, for whoever finds it without a supervisor
      files/        the user's files, and files.zip for the other nodes, if data is among them

Ray forgets a job's files when the job is over, and all of its jobs when it is started anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from trainables.errors import InputError
from trainables.files import whole_folder, write_whole

JOB_FILE, STATE_FILE, FILES = "job.json", "state.json", "files"
SWEEP_KEY = "thaw_sweep"  # in a Ray job's metadata: the sweep that it drives

SWEEPS_VARIABLE = "THAW_SWEEPS_FOLDER"  # on the head: where sweeps go, unless told otherwise

Phase = Literal["running", "ended", "stopped", "given up"]


def jobs_folder() -> Path:
    """Where the head keeps submitted sweeps."""
    return Path("~/.thaw/jobs").expanduser()


@dataclass(frozen=True)
class Submitted:
    """What was submitted."""

    name: str  # of the sweep
    arguments: list[str]  # of `thaw sweep`
    sweeps_folder: str | None = None  # a path or URI on the cluster
    resume_arguments: list[str] | None = None  # of `thaw resume`, when it was submitted again
    sends_data: bool = False  # that trials read, so that every node needs the files
    versions: Mapping[str, str] = field(default_factory=dict)  # of the machine it came from


def sweeps_folder_of(submitted: Submitted) -> Path | str:
    """Where a submitted sweep's folder is, or will be: a path on the head, or a URI."""
    given = submitted.sweeps_folder or os.environ.get(SWEEPS_VARIABLE) or "sweeps"
    return given if "://" in given else Path.home() / Path(given).expanduser()


@dataclass(frozen=True)
class State:
    """How a submitted sweep stands."""

    phase: Phase
    job_id: str  # of the newest Ray job that drives it
    exit_code: int | None = None
    n_restarts: int = 0  # of its driver, in all
    n_revivals: int = 0  # of its job, in all
    n_fruitless_revivals: int = 0  # in a row, without an epoch between
    n_epochs_then: int = 0  # when it was last revived
    folder: str | None = None  # of the sweep, once there is one


@dataclass(frozen=True)
class JobRecord:
    """The folder of one submitted sweep."""

    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / FILES

    @property
    def exists(self) -> bool:
        return (self.folder / JOB_FILE).is_file()

    def submitted(self) -> Submitted:
        """What was submitted.

        Raises:
            InputError: nothing of that name was, or its record is damaged.
        """
        try:
            return Submitted(**json.loads((self.folder / JOB_FILE).read_text()))
        except FileNotFoundError:
            raise InputError(
                f"no sweep {self.folder.name!r} was submitted to this cluster"
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{str(self.folder / JOB_FILE)!r} is damaged: {error}") from error

    def state(self) -> State | None:
        """How it stands; None before it ever ran."""
        try:
            return State(**json.loads((self.folder / STATE_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write_state(self, state: State) -> None:
        write_whole(self.folder / STATE_FILE, json.dumps(asdict(state)))

    def install(self, submitted: Submitted, files: Path) -> None:
        """Keep what was submitted and a copy of its ``files``, in place of what there was."""
        with whole_folder(self.folder) as partial:
            _copy_files(files, partial / FILES)
            self._write(partial, submitted)

    def go_on_with(self, submitted: Submitted, files: Path) -> None:
        """Note that it was submitted again, and add its new files to the earlier ones."""
        _copy_files(files, self.files)
        before = self.submitted()
        again = replace(
            before,
            resume_arguments=submitted.resume_arguments,
            versions=submitted.versions,
            sends_data=before.sends_data or submitted.sends_data,
        )
        self._write(self.folder, again)

    def _write(self, folder: Path, submitted: Submitted) -> None:
        if submitted.sends_data:
            shutil.make_archive(str(folder / FILES), "zip", folder / FILES)
        write_whole(folder / JOB_FILE, json.dumps(asdict(submitted), indent=1))


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def job_record(name: str) -> JobRecord:
    return JobRecord(jobs_folder() / name)


def all_records() -> Iterator[JobRecord]:
    """Every submitted sweep that the head keeps; none where its disk can not be read now."""
    with suppress(OSError):
        for folder in sorted(jobs_folder().iterdir()):
            if JobRecord(folder).exists and not folder.name.startswith("."):
                yield JobRecord(folder)


def next_job_id(current: str) -> str:
    """The id of the job after ``current``: NAME, NAME~2, NAME~3. No sweep's name holds a ``~``."""
    name, _, n = current.partition("~")
    return f"{name}~{int(n or 1) + 1}"
