"""Where checkpoints are kept: whole folders by key, in the sweep's own folder or below a URI.

A key is a path below the sweep, such as ``trials/0003/best``. What is put under it replaces what
was there once it is whole, never before. The third kind of store, for nodes that share no disk with
the sweep's folder, is in relay.py.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from trainables.files import restore_folder, whole_folder, write_whole_bytes
from tuning.record.uris import join_uri
from tuning.storage.disk import folder_bytes, free_bytes
from tuning.storage.remote import RemoteFile, RemoteFolder
from tuning.storage.staging import Staging

TRIALS = "trials"

Save = Callable[[Path], None]  # fills an empty folder


def trial_key(number: int) -> str:
    """Where trial ``number`` keeps its checkpoints, below its sweep."""
    return f"{TRIALS}/{number:04d}"


class CheckpointStore(Protocol):
    """Every method may raise OSError: a disk is full, a network or a node is gone."""

    def put(self, key: str, save: Save) -> None:
        """Keep what ``save`` fills an empty folder with, in place of what ``key`` has."""

    def get(self, key: str) -> Path | None:
        """A local folder with what was put, not to be written; None if there is nothing whole."""

    def retry(self, *, is_last: bool = False) -> None:
        """Put what could not be put when it was to be, if there is such, and if it is time."""

    def release(self, key: str) -> None:
        """Say that the folder which ``get`` gave is needed no longer."""

    def peek(self, key: str, name: str) -> bytes | None:
        """One small file of what was put."""

    def find(self, key: str) -> str | None:
        """The path or URI of what was put, for a person; None if there is nothing whole."""

    def name(self, key: str) -> str:
        """Where a key's checkpoint is or would be, for a person."""

    def set_aside(self, key: str) -> str:
        """Let what was put, which is damaged, count no more; where it is now, for a person."""

    def recover(self, key: str) -> None:
        """Clean up after a writer that was killed; only while nobody writes to ``key``."""

    def delete(self, key: str) -> None:
        """Delete what was put."""

    def clear(self, folder: str, keep: str | None = None) -> None:
        """Delete all below ``folder``, unfinished and damaged too, but what is whole of a key."""

    def sizes(self) -> dict[str, int]:
        """The bytes of each checkpoint of the sweep's trials, unfinished and damaged ones too."""

    def free_bytes(self) -> float:
        """What may still be written."""

    def read(self, path: str) -> bytes | None:
        """A small file outside of checkpoints."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file: it has its old content or the new one."""


class FolderStore:
    """Checkpoints in a folder of this machine, or one that it shares: nothing is copied."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, save: Save) -> None:
        with whole_folder(self._root / key) as partial:
            save(partial)

    def get(self, key: str) -> Path | None:
        folder = self._root / key
        return folder if folder.is_dir() else None

    def retry(self, *, is_last: bool = False) -> None:
        """Nothing: a disk that is full has no room for what waits either."""

    def release(self, key: str) -> None:
        """Nothing: it is the checkpoint itself."""

    def peek(self, key: str, name: str) -> bytes | None:
        return self.read(f"{key}/{name}")

    def find(self, key: str) -> str | None:
        return self.name(key) if self.get(key) is not None else None

    def name(self, key: str) -> str:
        return str(self._root / key)

    def set_aside(self, key: str) -> str:
        aside = (self._root / key).with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        (self._root / key).rename(aside)
        return str(aside)

    def recover(self, key: str) -> None:
        restore_folder(self._root / key)

    def delete(self, key: str) -> None:
        shutil.rmtree(self._root / key, ignore_errors=True)

    def clear(self, folder: str, keep: str | None = None) -> None:
        if keep is not None:
            restore_folder(self._root / keep)
        with suppress(FileNotFoundError):
            for path in (self._root / folder).iterdir():
                if keep is None or path != self._root / keep:
                    shutil.rmtree(path, ignore_errors=True)
        if keep is None:
            shutil.rmtree(self._root / folder, ignore_errors=True)

    def sizes(self) -> dict[str, int]:
        folders = (self._root / TRIALS).glob("*/*")
        return {
            str(folder.relative_to(self._root)): folder_bytes(folder)
            for folder in folders
            if folder.is_dir()
        }

    def free_bytes(self) -> float:
        return free_bytes(self._root)

    def read(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole_bytes(target, content)


_SECONDS_BETWEEN_ATTEMPTS = 30.0  # to upload, once that has failed
_COMMIT = ".whole.json"  # of a version: its files and their sizes; written last, deleted first
_VERSION = re.compile(r"(?P<key>.+)@(?P<number>\d{6})-[0-9a-f]{8}")


class UriStore:
    """Checkpoints below a URI, each under a name of its own: ``best@000004-1f3a9c52``.

    Nothing is renamed, as object stores can not. A version counts when its list of files is there
    and they all are, with their sizes; older versions are deleted after that. So a writer that is
    killed, or that lives on after its trial went on elsewhere, never leaves what would be read.
    """

    def __init__(self, remote: RemoteFolder, staging: Staging) -> None:
        self._remote = remote
        self._staging = staging
        self._fetched: dict[str, tuple[str, Path]] = {}  # key -> version, its copy here
        self._waiting: dict[str, Path] = {}  # key -> what could not be uploaded
        self._failed_at = -math.inf  # by time.monotonic()

    def put(self, key: str, save: Save) -> None:
        """As any store; what can not be uploaded waits here for ``retry``, or for a newer one."""
        self._forget(key)
        folder = self._staging.make()
        try:
            save(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._waiting[key] = folder
        self._upload(key)

    def retry(self, *, is_last: bool = False) -> None:
        for key in list(self._waiting):
            self._upload(key, at_once=is_last)

    def _upload(self, key: str, *, at_once: bool = False) -> None:
        """Upload what waits, unless that failed just now: an attempt takes many seconds."""
        if not at_once and time.monotonic() - self._failed_at < _SECONDS_BETWEEN_ATTEMPTS:
            raise OSError(f"{self.name(key)} did not answer just now, and is tried again later")
        try:
            self._upload_version(key, self._waiting[key])
        except OSError:
            self._failed_at = time.monotonic()
            raise
        self._failed_at = -math.inf
        self._forget(key)

    def _upload_version(self, key: str, folder: Path) -> None:
        files, folders = contents_of(folder)
        number = max(map(_number, self._versions(key)), default=0) + 1
        version = f"{key}@{number:06d}-{secrets.token_hex(4)}"
        uploaded = False  # any of it
        try:
            for name in files:
                self._remote.upload(folder / name, f"{version}/{name}")
                uploaded = True
            whole = json.dumps({"files": files, "folders": folders}).encode()
            self._remote.write(f"{version}/{_COMMIT}", whole)
        except BaseException:
            if uploaded:
                with suppress(OSError):
                    self._remote.delete_folder(version)
            raise
        with suppress(OSError):  # what is older does no harm, and goes with the next one
            self._delete_versions([v for v in self._versions(key) if _number(v) < number])

    def _forget(self, key: str) -> None:
        """Drop what waits to be uploaded."""
        if (folder := self._waiting.pop(key, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, key: str) -> Path | None:
        version = self._newest(key)
        if version is None:
            return None
        known = self._fetched.get(key)
        if known is not None and known[0] == version and known[1].is_dir():
            return known[1]
        folder = self._staging.place(key)
        fetch_whole(self._remote, version, folder)
        self._fetched[key] = version, folder
        return folder

    def release(self, key: str) -> None:
        _, folder = self._fetched.pop(key, (None, None))
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def peek(self, key: str, name: str) -> bytes | None:
        version = self._newest(key)
        return None if version is None else self._remote.read(f"{version}/{name}")

    def find(self, key: str) -> str | None:
        version = self._newest(key)
        return None if version is None else self.name(version)

    def name(self, key: str) -> str:
        return join_uri(self._remote.uri, key)

    def set_aside(self, key: str) -> str:
        version = self._newest(key)
        if version is None:
            return self.name(key)
        self._remote.delete(f"{version}/{_COMMIT}")
        return self.name(version)

    def recover(self, key: str) -> None:
        self._forget(key)
        whole = self._newest(key)
        self._delete_versions([v for v in self._versions(key) if v != whole])

    def delete(self, key: str) -> None:
        self._forget(key)
        self._delete_versions(self._versions(key))

    def clear(self, folder: str, keep: str | None = None) -> None:
        kept = None if keep is None else self._newest(keep)
        versions = {
            version for path in self._remote.files(folder) if (version := _version_of(path))
        }
        self._delete_versions(version for version in versions if version != kept)

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path, file in self._remote.files(TRIALS).items():
            if version := _version_of(path):
                key = _key(version)
                found[key] = found.get(key, 0) + file.n_bytes
        return found

    def free_bytes(self) -> float:
        return math.inf

    def read(self, path: str) -> bytes | None:
        return self._remote.read(path)

    def write(self, path: str, content: bytes) -> None:
        self._remote.write(path, content)

    def _versions(self, key: str) -> dict[str, dict[str, RemoteFile]]:
        """The versions of ``key``, whole or not, with their files, oldest first."""
        found: dict[str, dict[str, RemoteFile]] = {}
        for path, file in self._remote.files(key.rpartition("/")[0]).items():
            version = _version_of(path)
            if version is not None and _key(version) == key:
                found.setdefault(version, {})[path.removeprefix(f"{version}/")] = file
        return dict(sorted(found.items()))

    def _newest(self, key: str) -> str | None:
        """The newest version that is whole."""
        for version, files in reversed(self._versions(key).items()):
            if _COMMIT in files and (contents := self._remote.read(f"{version}/{_COMMIT}")):
                wanted = json.loads(contents)["files"]
                if all(name in files and files[name].n_bytes == wanted[name] for name in wanted):
                    return version
        return None

    def _delete_versions(self, versions: Iterable[str]) -> None:
        for version in versions:
            self._remote.delete(f"{version}/{_COMMIT}")
            self._remote.delete_folder(version)


def _version_of(path: str) -> str | None:
    """The version that a file belongs to; None if to none."""
    parts = path.split("/")
    for n in range(1, len(parts)):
        if _VERSION.fullmatch("/".join(parts[:n])):
            return "/".join(parts[:n])
    return None


def _key(version: str) -> str:
    return version.rpartition("@")[0]


def _number(version: str) -> int:
    return int(version.rpartition("@")[2].partition("-")[0])


def contents_of(folder: Path) -> tuple[dict[str, int], list[str]]:
    """The files below ``folder`` with their sizes, and the folders: empty ones matter too."""
    paths = sorted(folder.rglob("*"))
    names: dict[str, Any] = {str(path.relative_to(folder)): path for path in paths}
    files = {name: path.stat().st_size for name, path in names.items() if path.is_file()}
    return files, [name for name, path in names.items() if path.is_dir()]


def fetch_whole(remote: RemoteFolder, version: str, folder: Path) -> None:
    """Copy a version of a checkpoint into ``folder``, which appears whole or not at all.

    Raises:
        FileNotFoundError: there is no whole one of that name.
    """
    prefix = f"{version}/" if version else ""
    contents = remote.read(f"{prefix}{_COMMIT}")
    if contents is None:
        raise FileNotFoundError(f"{join_uri(remote.uri, version)}: holds no whole checkpoint")
    described = json.loads(contents)
    with whole_folder(folder) as partial:
        for name in described["folders"]:
            (partial / name).mkdir(parents=True, exist_ok=True)
        for name in described["files"]:
            remote.download(f"{prefix}{name}", partial / name)
