"""The working copy of a sweep whose home is a URI: fetched first, then uploaded as it changes.

An object store can not be appended to, and Optuna and the record need a disk. So the driver works
in a folder of its own, and a thread uploads what has changed there every few seconds. Checkpoints
are not part of it: workers write them to the home themselves.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from trainables.errors import InputError
from trainables.files import write_whole_bytes
from tuning.record.events import EVENTS_FILE
from tuning.record.sweep import Sweep
from tuning.record.uris import split_uri
from tuning.storage.driver_lock import HOLDER_FILE, sole_driver_at
from tuning.storage.remote import RemoteError, RemoteFolder, within_seconds
from tuning.storage.stores import TRIALS

Say = Callable[[str], None]

_SECONDS_BETWEEN_UPLOADS = 5.0
_SHARE_OF_TIME = 0.1  # that uploading may take: the record grows, and is uploaded whole
_SECONDS_TO_FETCH = 120.0
# How long the end of a sweep waits for its home while that answers, and while it does not.
_SECONDS_TO_FINISH, _SECONDS_TO_FINISH_FAILING = 120.0, 12.0
_NOT_UPLOADED = {HOLDER_FILE, TRIALS}
_FOLDERS_FETCHED = ("", "searcher")  # of the home; the others hold checkpoints


def say_on_stderr(message: str) -> None:
    print(message, file=sys.stderr)


def working_copy(home: str, cache_folder: Path) -> Path:
    """Where this machine keeps its copy of the sweep at ``home``."""
    key = hashlib.sha256(home.encode()).hexdigest()[:12]
    return cache_folder / "sweeps" / key / split_uri(home)[1]


def fetch(home: str, folder: Path, say: Say = say_on_stderr) -> None:
    """Bring the working copy up to date, if the home has gone on elsewhere.

    The copy is newer where this machine's driver was killed before it had uploaded everything: it
    stays as it is. Where both have gone on, the copy is set aside.

    Raises:
        RemoteError: the home can not be read.
    """
    remote = RemoteFolder(home)
    try:
        within_seconds(_SECONDS_TO_FETCH, home, lambda: _fetch(remote, folder, say))
    except RemoteError as error:
        copy = f"; what this machine knows of it is in {str(folder)!r}" if folder.is_dir() else ""
        raise RemoteError(f"{error}{copy}") from error


def _fetch(remote: RemoteFolder, folder: Path, say: Say) -> None:
    # The home first: what a driver here uploads meanwhile, its copy has.
    there = _whole_lines(remote.read(EVENTS_FILE) or b"")
    path = folder / EVENTS_FILE
    here = _whole_lines(path.read_bytes() if path.is_file() else b"")
    if here.startswith(there) and path.is_file():
        return
    if not there.startswith(here):
        aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(aside)
        say(
            f"{remote.uri} has gone on elsewhere, and this machine had events that never got "
            f"there: they are in {str(aside)!r}, and the sweep is as it is at {remote.uri}"
        )
    names = [name for below in _FOLDERS_FETCHED for name in remote.files(below, recursive=False)]
    # What decides which is newer comes last, in case this is interrupted.
    for name in sorted(names, key=lambda name: (name == EVENTS_FILE, name)):
        content = remote.read(name)
        if content is not None and _belongs(Path(name)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole_bytes(folder / name, content)


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _belongs(path: Path) -> bool:
    """Whether a file of a sweep's folder, by its path there, is one that is mirrored."""
    # Optuna renames its lock, study.journal.lock, before it deletes it.
    is_passing = ".lock" in path.name or any(part.startswith(".") for part in path.parts)
    return path.parts[0] not in _NOT_UPLOADED and not is_passing


class Uploads:
    """Uploads what changes in a working copy, in a thread."""

    def __init__(self, home: str, folder: Path, say: Say) -> None:
        self._remote = RemoteFolder(home)
        self._folder = folder
        self._say = say
        self._uploaded: dict[Path, tuple[int, int]] = {}  # file -> size and time, as uploaded
        self._failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def start(self) -> None:
        """Upload all there is, so that workers find it, and go on in the background."""
        self._round()
        self._thread.start()

    def close(self) -> bool:
        """Upload the rest; False if the home does not take it, or takes it too slowly."""
        self._closing.set()
        started = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            limit = _SECONDS_TO_FINISH_FAILING if self._failing else _SECONDS_TO_FINISH
            if time.monotonic() - started > limit:
                break
        complete = not self._thread.is_alive() and not self._failing
        if not complete:
            self._say(
                f"{self._remote.uri} lacks the newest of the sweep's record, which is whole in "
                f"{str(self._folder)!r}; the next `thaw resume` on this machine uploads it"
            )
        return complete

    def _run(self) -> None:
        while True:
            is_last = self._closing.is_set()
            started = time.monotonic()
            self._round()
            if is_last:
                return
            seconds = (time.monotonic() - started) / _SHARE_OF_TIME
            self._closing.wait(max(_SECONDS_BETWEEN_UPLOADS, seconds))

    def _round(self) -> None:
        """Upload what has changed; what fails is tried again in the next round."""
        try:
            for path in self._files():
                with suppress(FileNotFoundError):  # one that was replaced just now: next time
                    self._upload(path)
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._say(
                    f"{error}. Training goes on; what happens is kept in {str(self._folder)!r} "
                    "and uploaded when it can be"
                )
            return
        if self._failing:
            self._failing = False
            self._say(f"{self._remote.uri} answers again, and has all of the sweep's record")

    def _files(self) -> Iterator[Path]:
        for root, folders, files in os.walk(self._folder):
            here = Path(root).relative_to(self._folder)
            folders[:] = [name for name in folders if _belongs(here / name)]
            yield from (self._folder / here / name for name in files if _belongs(here / name))

    def _upload(self, path: Path) -> None:
        stat = path.stat()
        state = stat.st_size, stat.st_mtime_ns
        if self._uploaded.get(path) != state:
            self._remote.write(path.relative_to(self._folder).as_posix(), path.read_bytes())
            self._uploaded[path] = state


@contextmanager
def at_home(sweep: Sweep, say: Say) -> Iterator[Callable[[], None]]:
    """Be the only process that works on ``sweep``, and keep its home up to date.

    When the block begins, the working copy is current. The block calls the function that it gets;
    from then on changes are uploaded, and when the block has ended, the home is current. A sweep
    whose home is the folder itself needs nothing of this.

    Raises:
        InputError: another process works on the sweep, or the home can not be read or written.
    """
    if sweep.home is None:
        yield lambda: None
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_driver_at(sweep.name, sweep.home))
            fetch(sweep.home, sweep.folder, say)
        except RemoteError as error:
            message = f"sweep {sweep.name}: its home can not be used: {error}"
            raise InputError(message) from error
        uploads = Uploads(sweep.home, sweep.folder, say)
        try:
            yield uploads.start
        finally:
            uploads.close()
