"""Checkpoints below a URI such as s3://BUCKET/SWEEP, where no file can be renamed."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trainables.files import whole_folder
from tuning.record.uris import join_uri
from tuning.storage.remote import RemoteFile, RemoteFolder
from tuning.storage.staging import Staging
from tuning.storage.stores import TRIALS, Save, contents_of

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
        """As any store. What can not be uploaded waits for ``retry``, or for a newer checkpoint."""
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
