"""One process at a time drives a sweep: a lock that dies with its process, and who holds it.

``flock`` is what refuses a second driver. Some network file systems do not carry it from one host
to another, so the holder also renews the time of a file that names it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from trainables.errors import InputError
from trainables.files import write_whole

LOCK_FILE, HOLDER_FILE = "driver.lock", "driver.json"
SECONDS_BETWEEN_SIGNS = 10.0
SECONDS_UNTIL_GONE = 60.0  # without a sign, a driver on another host is taken for dead (assumed)


@contextmanager
def sole_driver(name: str, folder: Path) -> Iterator[None]:
    """Hold the lock of sweep ``name`` in ``folder``, so that no second process works on it.

    Raises:
        InputError: another process holds it; the message gives its host and process id.
    """
    lock = _acquire(name, folder)
    done = threading.Event()
    threading.Thread(target=_give_signs, args=(folder, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        (folder / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _acquire(name: str, folder: Path) -> BaseFileLock:
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _refuse_if_alive(name, folder)
        write_whole(folder / HOLDER_FILE, json.dumps(myself()))
        return lock
    except Timeout:
        raise driven_by(name, _holder(folder)) from None
    except OSError as error:
        lock.release()
        raise InputError(f"sweep folder {str(folder)!r} can not be written: {error}") from error
    except InputError:
        lock.release()
        raise


def myself() -> dict[str, Any]:
    """What a holder file says of this process."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "process_started": _process_start(pid)}


def _give_signs(folder: Path, done: threading.Event) -> None:
    while not done.wait(SECONDS_BETWEEN_SIGNS):
        with suppress(OSError):
            os.utime(folder / HOLDER_FILE)


def _holder(folder: Path) -> dict[str, Any] | None:
    try:
        return parse_holder((folder / HOLDER_FILE).read_bytes())
    except OSError:
        return None


def parse_holder(content: bytes | None) -> dict[str, Any] | None:
    """What a holder file says; None where there is none, or it is damaged."""
    try:
        values: dict[str, Any] = json.loads(content or b"null") or {}
        return values if {"host", "pid"} <= values.keys() else None
    except ValueError:
        return None


def _refuse_if_alive(name: str, folder: Path) -> None:
    """With the lock in hand: is the one who held it last really gone?"""
    holder = _holder(folder)
    if holder is None:
        return
    if holder["host"] == socket.gethostname():
        if is_gone(holder) or holder["pid"] == os.getpid():
            return
        raise driven_by(name, holder)
    refuse_if_recent(name, holder, _seconds_silent(folder))


def is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether a process of this host has ended, or its number is another process's now."""
    started = _process_start(holder["pid"])
    return started is None or started != holder.get("process_started")


def _seconds_silent(folder: Path) -> float:
    """By the file system's own clock: those of two hosts may differ."""
    (folder / LOCK_FILE).touch()
    now = (folder / LOCK_FILE).stat().st_mtime
    return now - (folder / HOLDER_FILE).stat().st_mtime


def driven_by(name: str, holder: Mapping[str, Any] | None, more: str = "") -> InputError:
    """What to tell the second who wants to drive sweep ``name``."""
    who = "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"
    return InputError(f"sweep {name} is being run by {who}{more}")


def refuse_if_recent(name: str, holder: Mapping[str, Any], seconds_silent: float) -> None:
    """Raise InputError unless the holder has been silent for so long that it must be dead."""
    if seconds_silent < SECONDS_UNTIL_GONE:
        sign = f", which gave a sign {seconds_silent:.0f} s ago"
        advice = f"; if it is dead, try again in {SECONDS_UNTIL_GONE:.0f} s"
        raise driven_by(name, holder, sign + advice)


def _process_start(pid: int) -> float | None:
    """When a process of this host began, in ticks since the boot; None if there is none.

    Where there is no /proc, any living process is taken to be the one that is meant.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
            return 0.0
        except OSError:
            return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
        return None if state in "ZX" else float(fields[18])
    except OSError:
        return None
