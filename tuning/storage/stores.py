"""Where checkpoints are kept: whole folders by key. Here are the protocol, and the plain folder.

A key is a path below the sweep, such as ``trials/0003/best``. What is put under it replaces what
was there once it is whole, never before. Stores below a URI are in uri_store.py; those of nodes
that share no disk with the sweep's folder are in relay.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from trainables.files import restore_folder, whole_folder, write_whole_bytes
from tuning.storage.disk import folder_bytes, free_bytes

TRIALS = "trials"

Save = Callable[[Path], None]  # fills an empty folder


def trial_key(number: int) -> str:
    """Where trial ``number`` keeps its checkpoints, below its sweep."""
    return f"{TRIALS}/{number:04d}"


class CheckpointStore(Protocol):
    """Every method may raise OSError: a disk is full, a network or a node is gone."""

    def put(self, key: str, save: Save) -> None:
        """Let ``save`` fill an empty folder, and keep it in place of what ``key`` has."""

    def get(self, key: str) -> Path | None:
        """A local folder with the checkpoint, only to be read; None if there is no whole one."""

    def retry(self, *, is_last: bool = False) -> None:
        """Try again to put what could not be put, unless that failed just now."""

    def release(self, key: str) -> None:
        """Give back the folder that ``get`` has returned."""

    def peek(self, key: str, name: str) -> bytes | None:
        """The content of a small file in a checkpoint; None if there is none."""

    def find(self, key: str) -> str | None:
        """The path or URI of a checkpoint, for a person; None if there is no whole one."""

    def name(self, key: str) -> str:
        """Where a key's checkpoint is or would be, for a person."""

    def set_aside(self, key: str) -> str:
        """Take a damaged checkpoint out of use; where it is now, for a person."""

    def recover(self, key: str) -> None:
        """Clean up after a writer that was killed; only while nobody writes to ``key``."""

    def delete(self, key: str) -> None:
        """Delete a checkpoint."""

    def clear(self, folder: str, keep: str | None = None) -> None:
        """Delete all below ``folder``, damaged or not, but for a whole checkpoint of ``keep``."""

    def sizes(self) -> dict[str, int]:
        """The bytes of each checkpoint of the sweep's trials, unfinished and damaged ones too."""

    def free_bytes(self) -> float:
        """How much may still be written."""

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
        if keep is None:
            shutil.rmtree(self._root / folder, ignore_errors=True)
            return
        restore_folder(self._root / keep)
        for path in (self._root / folder).glob("*"):
            if path != self._root / keep:
                shutil.rmtree(path, ignore_errors=True)

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
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self._root / path).read_bytes()
        return None

    def write(self, path: str, content: bytes) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole_bytes(target, content)


def contents_of(folder: Path) -> tuple[dict[str, int], list[str]]:
    """The files below ``folder`` with their sizes, and the folders: empty ones matter too."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    files = {name: path.stat().st_size for name, path in names.items() if path.is_file()}
    return files, [name for name, path in names.items() if path.is_dir()]
