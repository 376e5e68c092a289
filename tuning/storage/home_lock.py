"""One driver at a time for a sweep whose home is a URI, whichever machines they are on.

Object stores have no locks. The driver keeps a file there that names it and renews it; who finds
one that was renewed just now stays away. Two that start within the same second may both see none:
each looks once more after it has written its own.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tuning.storage.driver_lock import (
    HOLDER_FILE,
    SECONDS_BETWEEN_SIGNS,
    driven_by,
    is_gone,
    myself,
    parse_holder,
    refuse_if_recent,
)
from tuning.storage.remote import RemoteFolder

_SECONDS_TO_SETTLE = 1.0

# What this process wrote at homes that did not answer when it had ended: nobody's any more.
_left_behind: set[bytes] = set()


@contextmanager
def sole_driver_at(name: str, home: str | None) -> Iterator[None]:
    """Be the driver of sweep ``name`` at ``home``; nothing where that is no URI.

    Raises:
        InputError: another one gives signs of life; the message gives its host and process id.
        RemoteError: the home can not be read or written.
    """
    if home is None:
        yield
        return
    remote = RemoteFolder(home)
    _refuse_if_alive(name, remote)
    mine = json.dumps({**myself(), "token": secrets.token_hex(8)}).encode()
    remote.write(HOLDER_FILE, mine)
    time.sleep(_SECONDS_TO_SETTLE)
    if (found := remote.read(HOLDER_FILE)) != mine:
        raise driven_by(name, parse_holder(found))
    done = threading.Event()
    thread = threading.Thread(target=_give_signs, args=(remote, mine, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(SECONDS_BETWEEN_SIGNS)
        try:
            if remote.read(HOLDER_FILE) == mine:
                remote.delete(HOLDER_FILE)
        except OSError:
            _left_behind.add(mine)


def _give_signs(remote: RemoteFolder, mine: bytes, done: threading.Event) -> None:
    while not done.wait(SECONDS_BETWEEN_SIGNS):
        with suppress(OSError):
            remote.write(HOLDER_FILE, mine)


def _refuse_if_alive(name: str, remote: RemoteFolder) -> None:
    content = remote.read(HOLDER_FILE)
    holder = parse_holder(content)
    if holder is None or content in _left_behind:
        return
    if holder["host"] == socket.gethostname() and is_gone(holder):
        return
    refuse_if_recent(name, holder, _seconds_silent(remote))


def _seconds_silent(remote: RemoteFolder) -> float:
    """By the store's own clock: it may differ from this machine's."""
    now = f".now-{secrets.token_hex(4)}"
    remote.write(now, b"")
    files = remote.files(recursive=False)
    remote.delete(now)
    return files[now].modified - files[HOLDER_FILE].modified
