"""Checkpoints from nodes that do not share the sweep's folder: through Ray to the driver's node.

An actor on the driver's node writes into the sweep's folder what workers elsewhere send it, piece
by piece, so that a checkpoint of several gigabytes never is in memory as a whole. Those that share
the folder write there themselves.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from trainables.files import whole_folder
from tuning.storage.staging import Staging
from tuning.storage.stores import FolderStore, Save, contents_of

_CHUNK_BYTES = 8 * 2**20
_SECONDS_FOR_CALL = 120.0
_N_AT_ONCE = 8  # calls; most of the time they wait for the disk

Call = Callable[..., Any]  # (name of a method of ``Relay``, its arguments) -> what it returns


class Relay:
    """The end at the sweep's folder."""

    def __init__(self, folder: str) -> None:
        self._root = Path(folder)
        self._store = FolderStore(self._root)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the folder's own store."""
        return getattr(self._store, method)(*arguments)

    def receive(self, key: str, token: str, name: str, chunk: bytes) -> None:
        """Add to a file of a checkpoint that comes under a token of its own."""
        path = self._come(key, token) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(chunk)

    def commit(self, key: str, token: str, files: dict[str, int], folders: list[str]) -> None:
        """Let what has come replace what the key had, if it is all that was sent."""
        come = self._come(key, token)
        try:
            for name in ("", *folders):
                (come / name).mkdir(parents=True, exist_ok=True)
            for name in files:  # an empty one had no piece
                (come / name).touch()
            if contents_of(come)[0] != files:
                raise OSError(f"checkpoint {str(self._root / key)!r} did not come whole")
            self._store.put(key, lambda folder: _move_all(come, folder))
        finally:
            self.abort(key, token)

    def abort(self, key: str, token: str) -> None:
        """Forget what has come."""
        shutil.rmtree(self._come(key, token), ignore_errors=True)

    def _come(self, key: str, token: str) -> Path:
        """Under a name that `restore_folder` takes for a leftover, should nothing more come."""
        target = self._root / key
        return target.with_name(f".{target.name}-{token}")

    def contents(self, key: str) -> tuple[dict[str, int], list[str]] | None:
        """The files of a checkpoint with their sizes, and its folders; None if there is none."""
        folder = self._store.get(key)
        return None if folder is None else contents_of(folder)

    def send(self, key: str, name: str, offset: int) -> bytes:
        """A piece of a file."""
        with (self._root / key / name).open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK_BYTES)


def _move_all(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)


class RelayStore:
    """The end at a worker: a ``CheckpointStore`` whose folder is on another node."""

    def __init__(self, call: Call, folder: str, staging: Staging) -> None:
        """Reach the sweep's ``folder`` by ``call``."""
        self._relay = call
        self._folder = folder
        self._staging = staging

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """All other methods are called on the folder's own store: little travels either way."""
        return partial(self._relay, "call", method)

    def put(self, key: str, save: Save) -> None:
        token = secrets.token_hex(8)
        with self._staging.folder() as folder:
            save(folder)
            files, folders = contents_of(folder)
            try:
                for name in files:
                    with (folder / name).open("rb") as source:
                        while chunk := source.read(_CHUNK_BYTES):
                            self._relay("receive", key, token, name, chunk)
                self._relay("commit", key, token, files, folders)
            except BaseException:
                self._relay("abort", key, token)
                raise

    def get(self, key: str) -> Path | None:
        contents = self._relay("contents", key)
        if contents is None:
            return None
        files, folders = contents
        target = self._staging.place(key)
        with whole_folder(target) as copy:
            for name in folders:
                (copy / name).mkdir(parents=True, exist_ok=True)
            for name, n_bytes in files.items():
                with (copy / name).open("wb") as file:
                    while file.tell() < n_bytes:
                        chunk = self._relay("send", key, name, file.tell())
                        if not chunk:
                            raise OSError(f"{self.name(key)}: {name} is shorter than it was")
                        file.write(chunk)
        return target

    def retry(self, *, is_last: bool = False) -> None:
        """Nothing: without the driver's node there is no sweep."""

    def release(self, key: str) -> None:
        shutil.rmtree(self._staging.place(key), ignore_errors=True)

    def name(self, key: str) -> str:
        return f"{self._folder}/{key}"


def start_relay(folder: Path) -> tuple[str, Any]:
    """Start the actor on this node, where ``folder`` is; its name, and what keeps it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name = f"thaw-relay-{secrets.token_hex(8)}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"max_concurrency": _N_AT_ONCE, "max_restarts": -1, "scheduling_strategy": here}
    actor = ray.remote(Relay).options(name=name, num_cpus=0, **options).remote(str(folder))
    return name, actor


def find_relay(name: str) -> Call:
    """A function that calls the actor of that name; it raises OSError where that fails."""
    import ray

    actors: list[Any] = []

    def call(method: str, *arguments: Any) -> Any:
        try:
            if not actors:
                actors.append(ray.get_actor(name))
            return ray.get(getattr(actors[0], method).remote(*arguments), timeout=_SECONDS_FOR_CALL)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise OSError(*error.cause.args) from error
            raise OSError(f"the driver's node can not do it: {error.cause!r}") from error
        except (ray.exceptions.RayError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise OSError(f"the driver's node is not reached through Ray: {reason}") from error

    return call
