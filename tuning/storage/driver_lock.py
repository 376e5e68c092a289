"""One process at a time drives a sweep, whichever machine it is on; the others learn which it is.

The driver keeps a file with its name beside the sweep and renews the file every few seconds; a
process that finds a file that was renewed recently stays away. In a folder ``flock`` refuses a
second driver at once, and dies with its process, but some network file systems do not carry it from
one host to another. At a URI there are no locks: two that start within the same second may both see
no file, so each looks once more after it has written its own.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import InputError
from trainables.files import write_whole
from tuning.storage.remote import RemoteFolder
from tuning.storage.stores import FolderStore

LOCK_FILE, HOLDER_FILE = "driver.lock", "driver.json"
SECONDS_BETWEEN_SIGNS = 10.0
SECONDS_UNTIL_GONE = 60.0  # without a sign, a driver on another host is taken for dead (assumed)
_SECONDS_TO_SETTLE = 1.0

Holder = Mapping[str, Any]


@contextmanager
def sole_driver(name: str, folder: Path) -> Iterator[None]:
    """Hold the lock of sweep ``name`` in ``folder``, so that no second process works on it.

    Raises:
        InputError: another process holds it; the message gives its host and process id.
    """
    store, file = FolderStore(folder), folder / HOLDER_FILE
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    with ExitStack() as stack:
        stack.callback(lock.release)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            _refuse_if_alive(name, store.read(HOLDER_FILE), partial(_seconds_silent, folder))
            write_whole(file, json.dumps(myself()))
        except Timeout:
            raise _driven_by(name, _parse(store.read(HOLDER_FILE))) from None
        except OSError as error:
            raise InputError(f"sweep folder {str(folder)!r} can not be written: {error}") from error
        stack.callback(file.unlink, missing_ok=True)
        stack.enter_context(_giving_signs(lambda: os.utime(file)))
        yield


@contextmanager
def sole_driver_at(name: str, home: str) -> Iterator[None]:
    """Be the driver of sweep ``name`` at the URI ``home``.

    Raises:
        InputError: another one gives signs of life; the message gives its host and process id.
        RemoteError: the home can not be read or written.
    """
    remote = RemoteFolder(home)
    _refuse_if_alive(name, remote.read(HOLDER_FILE), partial(_seconds_silent_at, remote))
    mine = json.dumps({**myself(), "token": secrets.token_hex(8)}).encode()
    remote.write(HOLDER_FILE, mine)
    time.sleep(_SECONDS_TO_SETTLE)
    if (found := remote.read(HOLDER_FILE)) != mine:
        raise _driven_by(name, _parse(found))
    try:
        with _giving_signs(lambda: remote.write(HOLDER_FILE, mine)):
            yield
    finally:
        with suppress(OSError):  # a file that is left is seen to be ours, later to be a dead one's
            if remote.read(HOLDER_FILE) == mine:
                remote.delete(HOLDER_FILE)


def myself() -> dict[str, Any]:
    """What a holder file says of this process."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "process_started": _process_start(pid)}


@contextmanager
def _giving_signs(renew: Callable[[], None]) -> Iterator[None]:
    """Renew the holder file again and again, in a thread, until the block ends."""
    done = threading.Event()

    def give_signs() -> None:
        while not done.wait(SECONDS_BETWEEN_SIGNS):
            with suppress(OSError):
                renew()

    thread = threading.Thread(target=give_signs, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(SECONDS_BETWEEN_SIGNS)


def _parse(content: bytes | None) -> Holder | None:
    """What a holder file says; None where there is none, or it is damaged."""
    try:
        values: dict[str, Any] = json.loads(content or b"null") or {}
        return values if {"host", "pid"} <= values.keys() else None
    except ValueError:
        return None


def _refuse_if_alive(
    name: str, content: bytes | None, seconds_silent: Callable[[Holder], float]
) -> None:
    """Raise InputError if the process that a holder file names may still be alive."""
    holder = _parse(content)
    if holder is None:
        return
    if holder["host"] == socket.gethostname() and _is_gone(holder):
        return
    silent = seconds_silent(holder)
    if silent < SECONDS_UNTIL_GONE:
        sign = f", which gave a sign {silent:.0f} s ago"
        advice = f"; if it is dead, try again in {SECONDS_UNTIL_GONE:.0f} s"
        raise _driven_by(name, holder, sign + advice)


def _is_gone(holder: Holder) -> bool:
    """Whether a process of this host has ended; its number may be another process's by now.

    A holder file of this process itself is a leftover: the home did not answer at its end.
    """
    started = _process_start(holder["pid"])
    is_another = started is None or started != holder.get("process_started")
    return is_another or holder["pid"] == os.getpid()


def _seconds_silent(folder: Path, holder: Holder) -> float:
    """By the file system's clock, as those of two hosts may differ; 0 for a holder on this host."""
    if holder["host"] == socket.gethostname():
        return 0.0
    (folder / LOCK_FILE).touch()
    now = (folder / LOCK_FILE).stat().st_mtime
    return now - (folder / HOLDER_FILE).stat().st_mtime


def _seconds_silent_at(remote: RemoteFolder, holder: Holder) -> float:
    """By the store's own clock: it may differ from this machine's."""
    now = f".now-{secrets.token_hex(4)}"
    remote.write(now, b"")
    files = remote.files(recursive=False)
    remote.delete(now)
    return float(files[now].mtime_ns - files[HOLDER_FILE].mtime_ns) / 1e9


def _driven_by(name: str, holder: Holder | None, more: str = "") -> InputError:
    """What to tell the second who wants to drive sweep ``name``."""
    who = "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"
    return InputError(f"sweep {name} is being run by {who}{more}")


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
