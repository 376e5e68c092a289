"""Activations of frozen blocks in files, shared by every training on the machine.

One entry holds what the frozen blocks give for one split, keyed by all that decides it. It appears
under its key only when it is whole; who reads it maps it into memory, so that all trainings share
one copy. Together the entries stay within a byte budget: the least recently used goes first.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

_DATA, _META = "activations.bin", "entry.json"
_SECONDS_TO_WAIT = 600.0  # for another training that computes the same entry
_CHECKED_AT_ONCE = 1 << 24  # bytes
# Shares of what the machine has: files that do not fit into memory would be read from the disk each
# epoch, and the disk is the user's.
_SHARE_OF_MEMORY, _SHARE_OF_FREE_DISK = 0.5, 0.25

_verified: set[tuple[str, int]] = set()  # files this process has checked: path, time of writing


class NotCached(Exception):
    """An entry can not be had; the message says why, and the training computes for itself."""


@dataclass(frozen=True)
class Entry:
    """What frozen blocks give for the samples of one split."""

    groups: Mapping[int, Tensor]  # group -> [its samples, ...], mapped from the file
    seconds: float  # that computing it took


class PrefixCache:
    """The entries below one folder."""

    def __init__(self, folder: Path, budget_bytes: int | None = None) -> None:
        """Use ``folder``, which need not exist.

        Args:
            budget_bytes: what all entries together may take; None: a quarter of the disk space that
                is free or taken by entries, but no more than half of the machine's memory.
        """
        self._folder = folder
        self._budget_bytes = budget_bytes

    @property
    def budget_bytes(self) -> int:
        """What all entries together may take."""
        if self._budget_bytes is not None:
            return self._budget_bytes
        self._folder.mkdir(parents=True, exist_ok=True)
        ours = sum(n_bytes for _, n_bytes, _ in self._entries())
        disk = shutil.disk_usage(self._folder).free + ours
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(min(disk * _SHARE_OF_FREE_DISK, memory * _SHARE_OF_MEMORY))

    def check_budget(self, n_bytes: int) -> int:
        """The budget, if ``n_bytes`` fit into it at all.

        Raises:
            NotCached: they do not.
        """
        budget = self.budget_bytes
        if n_bytes > budget:
            raise NotCached(f"{n_bytes:,} bytes are more than the budget of {budget:,}")
        return budget

    def read(self, key: str) -> Entry | None:
        """The entry, if it is there and whole; a damaged one is removed."""
        folder = self._folder / key
        try:
            meta = json.loads((folder / _META).read_text())
            _verify(folder / _DATA, meta)
            groups = _map(folder / _DATA, meta)
            os.utime(folder / _META)  # says when it was last used
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            self._remove(folder)
            return None
        return Entry(groups, meta["seconds"])

    def make(
        self,
        key: str,
        sizes: Mapping[int, int],
        expected_bytes: int,
        chunks: Iterable[tuple[int, Tensor]],
    ) -> Entry:
        """The entry, made of ``chunks`` unless another process makes it first.

        Args:
            sizes: group -> how many samples it has.
            expected_bytes: to make room for.
            chunks: (group, activations of its next samples [n, ...]), group after group in the
                order of ``sizes``; only asked for if they are needed.

        Raises:
            NotCached: it does not fit, the disk refuses, or the other process takes too long.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / f"{key}.lock", timeout=_SECONDS_TO_WAIT):
                if (found := self.read(key)) is not None:
                    return found
                self._write(key, sizes, expected_bytes, chunks)
        except Timeout:
            raise NotCached("another training has not finished computing it") from None
        except OSError as error:
            raise NotCached(f"it can not be written: {error.strerror or error}") from error
        made = self.read(key)
        if made is None:
            raise NotCached("it was removed at once: the budget is too small for what runs here")
        return made

    def _write(
        self,
        key: str,
        sizes: Mapping[int, int],
        expected_bytes: int,
        chunks: Iterable[tuple[int, Tensor]],
    ) -> None:
        partial = self._folder / f".{key}"  # ours alone while we hold the key's lock
        shutil.rmtree(partial, ignore_errors=True)
        started = time.perf_counter()
        try:
            with self._room(expected_bytes):
                partial.mkdir()
                file = (partial / _DATA).open("wb")
                with suppress(OSError):  # where the file system can not reserve, writing will tell
                    os.posix_fallocate(file.fileno(), 0, expected_bytes)
            with file:
                layout, dtype = _write_chunks(file, sizes, chunks)
                n_bytes = file.tell()
                file.truncate()
            meta = {
                "groups": layout,
                "dtype": str(dtype).removeprefix("torch."),
                "bytes": n_bytes,
                "checksum": _checksum(partial / _DATA),
                "seconds": time.perf_counter() - started,
            }
            (partial / _META).write_text(json.dumps(meta))
            partial.rename(self._folder / key)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    @contextmanager
    def _room(self, n_bytes: int) -> Iterator[None]:
        """Evict until ``n_bytes`` more fit; nobody else takes the room while the block runs."""
        budget = self.check_budget(n_bytes)
        with FileLock(self._folder / "room.lock", timeout=_SECONDS_TO_WAIT):
            self._remove_abandoned()
            entries = sorted(self._entries())
            taken = sum(size for _, size, _ in entries) + self._bytes_being_written()
            for _, size, folder in entries:
                if taken + n_bytes <= budget:
                    break
                self._remove(folder)
                taken -= size
            yield

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """(time of last use, bytes, folder) of each whole entry."""
        for path in self._folder.glob(f"[!.]*/{_META}"):
            with suppress(OSError):  # evicted by another process just now
                used = path.stat().st_mtime
                yield used, (path.parent / _DATA).stat().st_size, path.parent

    def _partials(self) -> list[Path]:
        return [path for path in self._folder.glob(".*") if path.is_dir()]

    def _bytes_being_written(self) -> int:
        total = 0
        for partial in self._partials():
            with suppress(OSError):
                total += (partial / _DATA).stat().st_size
        return total

    def _remove_abandoned(self) -> None:
        """Remove what a killed process was writing: its lock went with it."""
        for partial in self._partials():
            with suppress(Timeout), FileLock(self._folder / f"{partial.name[1:]}.lock", timeout=0):
                shutil.rmtree(partial, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        # Renamed first, so that nobody finds half of it. Who has it mapped keeps it until unmapped.
        gone = folder.with_name(f".{folder.name}.gone-{os.getpid()}")
        with suppress(OSError):
            folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _write_chunks(
    file: BinaryIO, sizes: Mapping[int, int], chunks: Iterable[tuple[int, Tensor]]
) -> tuple[dict[int, list[int]], torch.dtype]:
    """Write group after group; shape of each, and their type."""
    layout: dict[int, list[int]] = {}
    dtype = torch.float32
    for group, chunk in chunks:
        dtype = chunk.dtype
        layout.setdefault(group, [sizes[group], *chunk.shape[1:]])
        raw = chunk.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        # A write, not a mapping: where the disk is full, that one kills the process.
        file.write(raw.numpy().data)
    return layout, dtype


def _map(path: Path, meta: Mapping[str, Any]) -> dict[int, Tensor]:
    dtype = getattr(torch, meta["dtype"])
    flat = torch.from_file(
        str(path), shared=False, size=meta["bytes"] // dtype.itemsize, dtype=dtype
    )
    groups, start = {}, 0
    for group, shape in meta["groups"].items():
        size = int(np.prod(shape))
        groups[int(group)] = flat[start : start + size].view(shape)
        start += size
    return groups


def _verify(path: Path, meta: Mapping[str, Any]) -> None:
    """Raise ValueError unless the file is what was written."""
    stat = path.stat()
    if stat.st_size != meta["bytes"]:
        raise ValueError(f"{path} has {stat.st_size} bytes instead of {meta['bytes']}")
    known = (str(path), stat.st_mtime_ns)
    if known not in _verified:
        if _checksum(path) != meta["checksum"]:
            raise ValueError(f"{path} is not what was written")
        _verified.add(known)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(_CHECKED_AT_ONCE):
            checksum = zlib.crc32(piece, checksum)
    return checksum
