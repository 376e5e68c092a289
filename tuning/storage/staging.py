"""A scratch folder of this process, for checkpoints on their way to or from another place."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]


class Staging:
    """Folders of this process below a cache folder; what dead processes left there is removed."""

    def __init__(self, cache_folder: Path) -> None:
        """Name the place; it is made when it is first needed."""
        self._parent = cache_folder / "staging"
        self._own: Path | None = None

    def make(self) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(prefix="put-", dir=self._root()))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new, empty folder that is gone after the block."""
        path = self.make()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def place(self, key: str) -> Path:
        """Where a copy of ``key`` may be kept."""
        return self._root() / "got" / key

    def _root(self) -> Path:
        if self._own is None or not self._own.is_dir():
            self._parent.mkdir(parents=True, exist_ok=True)
            host = socket.gethostname()  # the cache folder may be shared with others
            for path in self._parent.iterdir():
                owner, process_id, _ = path.name.rsplit("-", 2)
                if owner == host and not psutil.pid_exists(int(process_id)):
                    shutil.rmtree(path, ignore_errors=True)
            made = tempfile.mkdtemp(prefix=f"{host}-{os.getpid()}-", dir=self._parent)
            self._own = Path(made)
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)  # when we end, too
        return self._own
