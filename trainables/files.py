"""Folders and files that appear whole or not at all, and folders that are known by name."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def default_cache_folder() -> Path:
    """$THAW_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("THAW_CACHE") or f"{base}/thaw").expanduser()


def package_folder(name: str) -> Path:
    """Where an installed package is. It is not imported, which may take seconds."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces ``folder`` if the block ends without an error.

    An error, or the process being killed, leaves what was at ``folder`` as it was.

    Raises:
        OSError: the disk is full, or the parent folder can not be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.rename(folder, old / "old")
            os.rename(partial, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Clean up after a ``whole_folder`` whose process was killed.

    Call it only while nobody writes to ``folder``. Killed between its two renames, ``whole_folder``
    has left the old folder under another name: it is put back.
    """
    leftovers = sorted(folder.parent.glob(f".{folder.name}-*"))
    for leftover in leftovers:
        if (leftover / "old").is_dir() and not folder.exists():
            os.rename(leftover / "old", folder)
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """``write_whole_bytes`` of text."""
    write_whole_bytes(path, text.encode())


def write_whole_bytes(path: Path, content: bytes) -> None:
    """Write a file that has its old content or the new one, whatever happens meanwhile.

    Raises:
        OSError: the disk is full, or the folder can not be written.
    """
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which replaces ``path`` if the block ends without an error."""
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def cut_incomplete_line(path: Path) -> None:
    """Take away what a killed writer has left of a last line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
