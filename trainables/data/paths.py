"""Data are regular files and folders: nothing that never ends, or that can be read only once."""

from __future__ import annotations

import stat
from pathlib import Path

from trainables.errors import InputError

_OWN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/")  # another process has others by these names
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def data_path(value: str, setting: str = "data") -> Path:
    """The regular file or folder that ``setting`` names.

    Raises:
        InputError: there is none, or it is a device, a pipe or a socket.
    """
    path = Path(value).expanduser()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise InputError(f"{setting} = {value!r}: no such file or folder") from None
    kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), None)
    if str(path.absolute()).startswith(_OWN_STREAMS):
        kind = "a stream of one process"
    if kind is not None:
        raise InputError(f"{setting} = {value!r}: is {kind}; valid: a regular file or a folder")
    return path


def regular_files(folder: Path) -> list[Path]:
    """The regular files in a folder, sorted.

    Raises:
        InputError: it can not be listed.
    """
    try:
        return sorted(file for file in folder.iterdir() if file.is_file())
    except OSError as error:
        raise InputError(f"data: {str(folder)!r} can not be listed: {error.strerror}") from None


def read_bytes(path: Path, n_bytes: int = -1) -> bytes:
    """The first bytes of a data file, all by default.

    Raises:
        InputError: it can not be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise InputError(f"data: {str(path)!r} can not be read: {error.strerror}") from None
