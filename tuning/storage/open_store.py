"""How each process of a sweep reaches the place of its checkpoints. Found out, not asked.

With a URI as its home, every process writes there itself. Else the sweep's folder is on the
driver's machine: a process that sees it, for it runs there or the disk is shared, writes into it;
one that does not sends its checkpoints through Ray.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from trainables.errors import InputError
from tuning.record.sweep import Sweep
from tuning.storage.remote import RemoteFolder
from tuning.storage.staging import Staging
from tuning.storage.stores import CheckpointStore, FolderStore
from tuning.storage.uri_store import UriStore

MARKER = ".shared"  # in the sweep's folder: who can read what it says sees the same folder


@dataclass(frozen=True)
class StoreAddress:
    """Where a sweep's checkpoints go. Plain values, so that it travels to any worker."""

    folder: str  # of the sweep, on the driver's machine
    cache_folder: str  # of any machine, for what is on its way
    home: str | None = None  # the URI that is the sweep's home
    token: str | None = None  # what MARKER says; None where nobody doubts the folder
    relay: str | None = None  # name of the actor that writes for those who do not see the folder

    @property
    def has_other_nodes(self) -> bool:
        """Whether workers may be on machines that the driver knows nothing of."""
        return self.token is not None


def address_of(sweep: Sweep) -> StoreAddress:
    """For processes of this machine alone."""
    return StoreAddress(str(sweep.folder), str(sweep.cache_folder), sweep.home)


def joins_cluster(sweep: Sweep) -> bool:
    """Whether a sweep runs on a Ray that may have more nodes than this machine."""
    return sweep.address not in (None, "local")


@contextmanager
def share(sweep: Sweep) -> Iterator[StoreAddress]:
    """Offer the sweep's folder to the nodes of the cluster that was joined, if one was.

    Raises:
        InputError: the folder can not be written.
    """
    if not joins_cluster(sweep):
        yield address_of(sweep)
        return
    token, relay, actor = secrets.token_hex(8), None, None
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        (sweep.folder / MARKER).write_text(token)
    except OSError as error:
        folder = str(sweep.folder)
        raise InputError(f"sweep folder {folder!r} can not be written: {error}") from error
    if sweep.home is None:
        from tuning.storage.relay import start_relay

        relay, actor = start_relay(sweep.folder)
    try:
        yield StoreAddress(str(sweep.folder), str(sweep.cache_folder), sweep.home, token, relay)
    finally:
        (sweep.folder / MARKER).unlink(missing_ok=True)
        del actor  # which ends it


def sees_folder(address: StoreAddress) -> bool:
    """Whether this process can write to the very folder that the driver has."""
    folder = Path(address.folder)
    try:
        same = address.token is None or (folder / MARKER).read_text() == address.token
        return same and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


@functools.lru_cache(maxsize=8)
def open_store(address: StoreAddress) -> CheckpointStore:
    """The store at an address, as this process reaches it; decided once per process."""
    staging = Staging(Path(address.cache_folder))
    if address.home is not None:
        return UriStore(RemoteFolder(address.home), staging)
    if address.relay is None or sees_folder(address):
        return FolderStore(Path(address.folder))
    from tuning.storage.relay import RelayStore, find_relay

    store = RelayStore(find_relay(address.relay), address.folder, staging)
    return cast(CheckpointStore, store)  # whatever else it is asked, it passes on


def store_of(sweep: Sweep) -> CheckpointStore:
    """The store of a sweep on this machine."""
    return open_store(address_of(sweep))
