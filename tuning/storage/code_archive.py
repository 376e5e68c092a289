"""The user's own training file on other machines: it and the modules beside it, in one archive.

The archive lies in the sweep's folder, so that workers get it where they get checkpoints, and a
sweep that is resumed elsewhere has all of its code.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import zipfile
from pathlib import Path

from trainables.files import whole_folder
from tuning.storage.stores import CheckpointStore

CODE_FILE = "code.zip"
_SWEEP_FILE = "sweep.json"  # of sweep.py: a folder with one holds copies
# More than this is a home folder or a whole project, not helpers of one file: assumed.
_MOST_FILES, _MOST_BYTES, _MOST_FOLDERS = 300, 4 * 2**20, 2000
_NO_CODE = {"__pycache__", "node_modules", "site-packages"}


def pack_code(train_file: Path) -> bytes:
    """The file and the Python files below its folder, or beside it where those are too many.

    The same files give the same bytes.
    """
    content = io.BytesIO()
    root = train_file.parent
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _files_with(train_file):
            entry = zipfile.ZipInfo(str(path.relative_to(root)))  # which has no time of its own
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()


def digest_of(archive: bytes) -> str:
    """A digest of an archive."""
    return hashlib.sha256(archive).hexdigest()[:20]


def _files_with(train_file: Path) -> list[Path]:
    root = train_file.parent
    beside = [path for path in root.glob("*.py") if path.is_file()]
    for found in (_below(root), beside):
        if found is not None and _is_little(found):
            return sorted({train_file, *found})
    return [train_file]


def _below(root: Path) -> list[Path] | None:
    """The Python files below a folder; None where there is too much below it."""
    found: list[Path] = []
    for n_folders, (folder, names, files) in enumerate(os.walk(root)):
        if n_folders > _MOST_FOLDERS or len(found) > _MOST_FILES:
            return None
        here = Path(folder)
        names[:] = [name for name in names if not _is_foreign(here / name)]
        found += [here / name for name in files if name.endswith(".py")]
    return [path for path in found if path.is_file()]


def _is_foreign(folder: Path) -> bool:
    return (
        folder.name.startswith(".")
        or folder.name in _NO_CODE
        or (folder / "pyvenv.cfg").exists()
        or (folder / _SWEEP_FILE).exists()
    )


def _is_little(files: list[Path]) -> bool:
    return len(files) <= _MOST_FILES and sum(path.stat().st_size for path in files) <= _MOST_BYTES


def unpack_code(archive: bytes, cache_folder: Path) -> Path:
    """The folder that an archive was unpacked into, once per machine."""
    folder = cache_folder / "code" / digest_of(archive)
    try:
        if not folder.is_dir():
            with whole_folder(folder) as partial, zipfile.ZipFile(io.BytesIO(archive)) as content:
                content.extractall(partial)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    return folder


def train_file_here(
    train_file: str, digest: str | None, store: CheckpointStore, cache_folder: Path
) -> str:
    """The user's training file as the driver has it: where it is the same here, else a copy.

    Args:
        digest: of the archive that the driver made; None where it is this machine's own file.

    Raises:
        OSError: it is neither here nor to be had, or the store does not answer.
    """
    if digest is None or _digest_here(train_file, digest) == digest:
        return train_file
    copy = cache_folder / "code" / digest / Path(train_file).name
    if not copy.is_file():
        archive = store.read(CODE_FILE)
        if archive is None or digest_of(archive) != digest:
            raise OSError(
                f"training file {train_file!r}: is not the driver's on this machine, and "
                f"{store.name(CODE_FILE)} is not what it began with"
            )
        unpack_code(archive, cache_folder)
    return str(copy)


@functools.lru_cache(maxsize=4)
def _digest_here(train_file: str, wanted: str) -> str | None:
    """The digest of what is at the driver's path on this machine; looked at once per process."""
    path = Path(train_file)
    try:
        return digest_of(pack_code(path)) if path.is_file() else None
    except OSError:
        return None


def saved_train_file(sweep_folder: Path, name: str, cache_folder: Path) -> Path:
    """A sweep's own copy of the training file, with the modules that were beside it."""
    copy, archive = sweep_folder / name, sweep_folder / CODE_FILE
    if not archive.is_file():
        return copy
    unpacked = unpack_code(archive.read_bytes(), cache_folder) / name
    is_same = unpacked.is_file() and unpacked.read_bytes() == copy.read_bytes()
    return unpacked if is_same else copy  # which somebody has changed
