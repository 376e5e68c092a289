"""What a run of the tests must not leave behind: processes, folders, the address of a Ray."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

# In the environment of all that the tests start; no test takes it away.
MARK = "PYTEST_FOLDER_OF_THAW"
# For processes that follow a killed one by themselves. An agent of Ray whose node manager was
# killed asks the control store for a minute, then ends.
_SECONDS_TO_END = 90.0
# Made by libraries, once for all that uses them: Ray's logs, the caches of torch and matplotlib.
_OF_LIBRARIES = ("ray", "torchinductor_", "matplotlib-", "__triton", "pymp-", "uv-")
# A driver that a test kills can not delete its temporary folders.
_OF_KILLED_DRIVERS = ("thaw-ray-train-", "tmp")


def take_folder() -> None:
    """Have all temporary files of this test run, Ray's among them, in a folder of its own.

    Its name is short: the paths of Ray's sockets lie below it, and may have 107 characters.
    """
    if MARK in os.environ:  # a process that another one of the tests has started
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # tmp_path stays there
    folder = tempfile.mkdtemp(prefix="t", dir="/tmp")
    os.chmod(folder, 0o755)  # PostgreSQL runs as another user
    os.environ |= {MARK: folder, "TMPDIR": folder, "RAY_TMPDIR": folder}
    tempfile.tempdir = None  # what was found before


def find_leftovers() -> list[str]:
    """A line for each thing that the tests left; ends those processes and removes the folder."""
    folder = Path(os.environ.pop(MARK))
    until = time.monotonic() + _SECONDS_TO_END
    while (left := _processes(folder)) and time.monotonic() < until:
        time.sleep(0.2)
    found = [f"process {pid}: {command}" for pid, command in left.items()]
    for pid in left:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    found += [
        f"{path}: a user's `ray.init()` would look there for a cluster that is gone"
        for path in folder.glob("**/ray_current_cluster")
    ]
    expected = (*_OF_LIBRARIES, *_OF_KILLED_DRIVERS)
    found += [str(path) for path in folder.iterdir() if not path.name.startswith(expected)]
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _processes(folder: Path) -> dict[int, str]:
    """The commands of others that have been started by the tests and still run, by process id."""
    mark, found = f"{MARK}={folder}\0".encode(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or is another user's
            if mark in (entry / "environ").read_bytes() + b"\0":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command[:200]
    return found
