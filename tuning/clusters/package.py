"""Which of the user's files go to the cluster with a sweep, and the archive that holds them.

Files below the current folder keep their relative paths, so that those mean the same there. Files
from outside of it go to ``elsewhere/``.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainables.errors import InputError
from tuning.storage.disk import show_bytes
from tuning.user_code.loading import imported_modules
from tuning.user_code.versions import ROOMS

# Of all files together, before they are compressed: a minute on a slow line. Ray's dashboard takes
# 100 MiB, and keeps them in its head's memory.
LIMIT_BYTES = 50_000_000
_ELSEWHERE = "elsewhere"
_MOST_FILES_MEASURED = 100_000  # of one folder: it is not looked at any further

# Never taken from a folder of code, beside what is hidden: what tools and trainings leave there.
_NO_CODE_FOLDERS = ("__pycache__", "node_modules", "mlruns", "mlartifacts", "lightning_logs")
_NO_CODE_SUFFIXES = (".pyc", ".pyo", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".db")


@dataclass
class Package:
    """Files to send, each with its place; ``folder`` is the one that is submitted from."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)  # place on the cluster -> file here
    sizes: dict[str, int] = field(default_factory=dict)  # what was asked for -> bytes
    has_data: bool = False  # beside code
    _endless: str | None = None  # what is too large to be measured
    _others: list[Path] = field(default_factory=list)  # folders outside of ``folder``

    @property
    def n_bytes(self) -> int:
        return sum(self.sizes.values())

    def add_code(self, file: Path) -> str:
        """Take a Python file and those beside it that it imports; returns the file's place."""
        for found in imported_files(file):
            self._take(found, self._place(file.parent, found), f"code of {file.name}")
        return self._place(file.parent, file)

    def add_data(self, path: Path, what: str) -> str:
        """Take a file, or all of a folder that is not hidden; returns its place.

        Args:
            what: to call it in messages.
        """
        path = Path(os.path.abspath(path))
        self.has_data = True
        self.sizes.setdefault(what, 0)
        for number, found in enumerate(_walk(path, is_code=False)):
            if number == _MOST_FILES_MEASURED:
                self._endless = f"{what} has more than {number} files"
                break
            self._take(found, self._place(path.parent, found), what)
        return self._place(path.parent, path)

    def check_size(self) -> None:
        """Raise InputError where this is too much to send."""
        if self.n_bytes <= LIMIT_BYTES and self._endless is None:
            return
        parts = ", ".join(f"{what} {show_bytes(n)}" for what, n in self.sizes.items() if n)
        raise InputError(
            f"the files that this sweep needs from here have {show_bytes(self.n_bytes)} "
            f"({self._endless or parts}), and at most {show_bytes(LIMIT_BYTES)} are sent along; "
            "put large data where all nodes of the cluster can read it, and name that place: "
            "--set data=/shared/flowers or --set data=s3://bucket/flowers"
        )

    def _take(self, file: Path, place: str, what: str) -> None:
        try:
            n_bytes = file.stat().st_size
        except OSError as error:
            raise InputError(f"{what}: {str(file)!r} can not be read: {error}") from None
        if place not in self.files:
            self.files[place] = file
            self.sizes[what] = self.sizes.get(what, 0) + n_bytes

    def _place(self, base: Path, path: Path) -> str:
        """Where ``path`` goes, of what lies below ``base``."""
        base = Path(os.path.abspath(base))
        path = Path(os.path.abspath(path))
        if path.is_relative_to(self.folder):
            return path.relative_to(self.folder).as_posix()
        if base not in self._others:
            self._others.append(base)
        number = self._others.index(base)
        return f"{_ELSEWHERE}/{number}/{path.relative_to(base).as_posix()}"


def make_archive(files: Mapping[str, Path], more: Mapping[str, bytes]) -> bytes:
    """A ZIP archive that is the same, byte by byte, for the same content.

    Raises:
        InputError: a file can not be read.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for place in sorted({*files, *more}):
            info = zipfile.ZipInfo(place, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            try:
                content = more[place] if place in more else files[place].read_bytes()
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
            except (OSError, UnicodeEncodeError) as error:
                raise InputError(f"{place!r} can not be sent: {error}") from None
    return buffer.getvalue()


def imported_files(file: Path) -> list[Path]:
    """A Python file, and of what lies beside it all that it imports, directly or not.

    A package is taken whole, for the data that it may bring.
    """
    folder = Path(os.path.abspath(file)).parent
    found: dict[Path, None] = {}  # in the order in which they were found
    todo = [Path(os.path.abspath(file))]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        found[current] = None
        if current.suffix == ".py":
            for name in imported_modules(current, folder):
                if name[0] not in ROOMS:
                    todo += _module_files(folder.joinpath(*name))
    return list(found)


def _module_files(path: Path) -> Iterator[Path]:
    """The files of the module or package whose path is ``path``, without its ending; or none."""
    if (path / "__init__.py").is_file():
        yield from _walk(path, is_code=True)
    elif path.with_suffix(".py").is_file():
        yield path.with_suffix(".py")


def _walk(path: Path, *, is_code: bool) -> Iterator[Path]:
    """A file, or the files below a folder that belong to it, each folder in order."""
    if not path.is_dir():
        yield path
        return
    seen: set[str] = set()  # a link may lead back up
    for root, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = sorted(
            name
            for name in folders
            if _belongs(Path(root) / name, is_code=is_code) and real not in seen
        )
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(names):
            if _belongs(Path(root) / name, is_code=is_code):
                yield Path(root) / name


def _belongs(path: Path, *, is_code: bool) -> bool:
    """Whether a file or folder inside of one that is sent goes with it."""
    if path.name.startswith(".") or path.name == "__pycache__":
        return False
    if (path / "pyvenv.cfg").is_file() or (path / "events.jsonl").is_file():
        return False  # a virtual environment, a sweep
    if not is_code:
        return path.is_dir() or path.is_file()  # and not a pipe or a link to nowhere
    if path.is_dir():
        return path.name not in _NO_CODE_FOLDERS
    return path.is_file() and path.suffix not in _NO_CODE_SUFFIXES
