"""Checkpoints below a URI such as s3://BUCKET/SWEEP, where no file can be renamed."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from trainables.files import whole_folder
from tuning.record.uris import join_uri
from tuning.storage.remote import RemoteFolder
from tuning.storage.staging import Staging
from tuning.storage.stores import TRIALS, Save, contents_of

_SECONDS_BETWEEN_ATTEMPTS = 30.0  # to upload, once that has failed
_COMMIT = ".whole.json"  # of a version: its files and their sizes; written last, deleted first
_FILE = re.compile(r"(?P<version>.+?@\d{6}-[0-9a-f]{8})/(?P<name>.+)")


class UriStore:
    """Checkpoints below a URI, each under a name of its own: ``best@000004-1f3a9c52``.

    Nothing is renamed, as object stores can not. A version counts when its list of files is there
    and they all are, with their sizes; older versions are deleted after that. So a writer that is
    killed, or that lives on after its trial went on elsewhere, never leaves what would be read.
    """

    def __init__(self, remote: RemoteFolder, staging: Staging) -> None:
        self._remote = remote
        self._staging = staging
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
        """Upload a folder. If that fails, the next upload or clean-up deletes what has arrived."""
        files, folders = contents_of(folder)
        older = self._versions(key)
        number = max(map(_number, older), default=0) + 1
        version = f"{key}@{number:06d}-{secrets.token_hex(4)}"
        for name in files:
            self._remote.upload(folder / name, f"{version}/{name}")
        whole = json.dumps({"files": files, "folders": folders}).encode()
        self._remote.write(f"{version}/{_COMMIT}", whole)
        with suppress(OSError):  # what is older does no harm, and goes with the next one
            self._delete_versions(older)

    def _forget(self, key: str) -> None:
        """Drop what waits to be uploaded."""
        if (folder := self._waiting.pop(key, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, key: str) -> Path | None:
        version = self._newest(key)
        if version is None:
            return None
        folder = self._staging.place(version)
        if not folder.is_dir():
            fetch_whole(self._remote, version, folder)
        return folder

    def release(self, key: str) -> None:
        copies = self._staging.place(key)
        for copy in copies.parent.glob(f"{copies.name}@*"):
            shutil.rmtree(copy, ignore_errors=True)

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
        self._delete_versions(version for version in self._below(folder) if version != kept)

    def sizes(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for version, files in self._below(TRIALS).items():
            found[_key(version)] += sum(files.values())
        return found

    def free_bytes(self) -> float:
        return math.inf

    def read(self, path: str) -> bytes | None:
        return self._remote.read(path)

    def write(self, path: str, content: bytes) -> None:
        self._remote.write(path, content)

    def _below(self, folder: str) -> dict[str, dict[str, int]]:
        """The versions below ``folder``, whole or not, oldest first: files and their bytes."""
        found: dict[str, dict[str, int]] = {}
        for path, info in sorted(self._remote.files(folder).items()):
            if match := _FILE.fullmatch(path):
                found.setdefault(match["version"], {})[match["name"]] = info.size
        return found

    def _versions(self, key: str) -> dict[str, dict[str, int]]:
        """Those of one key."""
        below = self._below(key.rpartition("/")[0])
        return {version: files for version, files in below.items() if _key(version) == key}

    def _newest(self, key: str) -> str | None:
        """The newest version that is whole."""
        for version, files in reversed(self._versions(key).items()):
            content = self._remote.read(f"{version}/{_COMMIT}") if _COMMIT in files else None
            if content and json.loads(content)["files"].items() <= files.items():
                return version
        return None

    def _delete_versions(self, versions: Iterable[str]) -> None:
        for version in versions:
            self._remote.delete(f"{version}/{_COMMIT}")
            self._remote.delete_folder(version)


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
