"""A folder that a URI names, such as s3://BUCKET/PREFIX, read and written through pyarrow.

Object stores have neither folders nor renames: a file appears whole when its writing ends, and
there is nothing like a folder that does. What must be whole is for the callers to see to.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from trainables.errors import InputError
from trainables.files import whole_file
from tuning.record.uris import check_uri, join_uri

_CHUNK_BYTES = 8 * 2**20
_SECONDS_FOR_PROBE = 30.0  # to answer at all; a cloud's own clients may try for a quarter hour
_GS_RETRY_SECONDS = 30  # instead of 15 minutes, for which a training would stand still

_ADVICE_ON_NETWORK = (
    "see that this machine reaches it; ?endpoint_override=HOST:PORT at the URI's end names another "
    "server than the cloud's"
)
# what a reason may hold -> what to do about it
_ADVICE = (
    (
        r"NO_SUCH_BUCKET|specified bucket does not exist|bucket .* not found",
        "make the bucket, or correct its name",
    ),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|[Cc]redential|"
        r"UNAUTHENTICATED|PERMISSION_DENIED|HTTP status code: 40[13]|\b403\b",
        "this machine needs the right to list, read, write and delete there: for s3 by an instance "
        "profile, ~/.aws/credentials or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for gs by a "
        "service account or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    (
        r"NETWORK_CONNECTION|[Cc]ould ?n.t (connect|resolve)|UNAVAILABLE|did not answer|"
        r"HTTP status code: 5\d\d|INTERNAL_FAILURE|SLOW_DOWN",
        _ADVICE_ON_NETWORK,
    ),
    (r"Permission denied|Read-only file system", "choose a place that can be written"),
)

Result = TypeVar("Result")


class RemoteError(OSError):
    """A URI can not be read or written; the message names it, the reason and what to do."""

    may_pass = False  # whether it may be otherwise in a minute


def check_writable_uri(uri: str, option: str) -> None:
    """Raise InputError unless files below ``uri`` can be written, listed, read and deleted."""
    check_uri(uri, option)
    try:
        within_seconds(_SECONDS_FOR_PROBE, uri, lambda: RemoteFolder(uri).probe())
    except OSError as error:
        raise InputError(f"{option} = {uri!r} can not be used: {error}") from error


def within_seconds(seconds: float, uri: str, action: Callable[[], Result]) -> Result:
    """What ``action`` returns or raises, if it does so within ``seconds``.

    Raises:
        RemoteError: it does not. It goes on in a thread that nobody waits for.
    """
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(action())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="remote", daemon=True).start()
    if not wait([answer], seconds).done:
        raise _told(uri, TimeoutError(f"it did not answer within {seconds:g} s"))
    return answer.result()


class RemoteFolder:
    """Files below a URI, by paths relative to it. Every method may raise RemoteError."""

    def __init__(self, uri: str) -> None:
        """Name the folder; nothing is asked of it yet."""
        self.uri = uri
        self._lock = threading.Lock()
        self._connected: Any = None

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is none."""
        with self._errors(path):
            try:
                with self._connect().open_input_stream(path) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, path: str, content: bytes) -> None:
        """Write a file: it has its old content or the new one, whatever happens meanwhile."""
        with self._errors(path), self._output(path) as stream:
            stream.write(content)

    def upload(self, file: Path, path: str) -> None:
        """Copy a local file. If that fails half-way, there may be half of it."""
        with file.open("rb") as source, self._errors(path), self._output(path) as stream:
            shutil.copyfileobj(source, stream, _CHUNK_BYTES)

    def download(self, path: str, file: Path) -> None:
        """Copy a file to a local one, whose folder is made."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            file.open("wb") as target,
            self._errors(path),
            self._connect().open_input_stream(path) as source,
        ):
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def files(self, path: str = "", *, recursive: bool = True) -> dict[str, Any]:
        """The files below ``path``, by their paths relative to this folder.

        Returns:
            Of each what pyarrow knows: ``size`` and ``mtime_ns``, by the store's own clock.
        """
        return {info.path: info for info in self._list(path, recursive) if info.is_file}

    def folders(self) -> list[str]:
        """The names of the folders right here."""
        return sorted(info.path for info in self._list("", False) if not info.is_file)

    def delete(self, path: str) -> None:
        """Delete a file; one that is not there is no error."""
        with self._errors(path), suppress(FileNotFoundError):
            self._connect().delete_file(path)

    def delete_folder(self, path: str) -> None:
        """Delete all files below ``path``."""
        with self._errors(path), suppress(FileNotFoundError):
            self._connect().delete_dir(path)

    def probe(self) -> None:
        """Write, list, read and delete a file."""
        name, content = f".probe-{secrets.token_hex(4)}", b"written to see whether it can be"
        self.write(name, content)
        if name not in self.files(recursive=False) or self.read(name) != content:
            raise _told(self.uri, OSError("what is written there is not what is read"))
        self.delete(name)

    def _connect(self) -> Any:
        """pyarrow's file system, as it is below this folder."""
        from pyarrow.fs import FileSystem, SubTreeFileSystem

        with self._lock:
            if self._connected is None:
                filesystem, base = FileSystem.from_uri(_with_patience(self.uri))
                self._connected = SubTreeFileSystem(base, filesystem)
            return self._connected

    def _list(self, path: str, recursive: bool) -> Any:
        from pyarrow.fs import FileSelector

        with self._errors(path):
            selector = FileSelector(path, recursive=recursive, allow_not_found=True)
            return self._connect().get_file_info(selector)

    @contextmanager
    def _output(self, path: str) -> Iterator[Any]:
        filesystem = self._connect()
        if filesystem.base_fs.type_name != "local":
            with filesystem.open_output_stream(path) as stream:
                yield stream
            return
        # A disk has folders, and shows half-written files.
        file = Path(filesystem.base_path, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as stream:
            yield stream

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Have every error name the URI; pyarrow raises its own, and Python's."""
        try:
            yield
        except RemoteError:
            raise
        except Exception as error:
            raise _told(join_uri(self.uri, path) if path else self.uri, error) from error


def _with_patience(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return uri
    query = "&".join(filter(None, [parts.query, f"retry_limit_seconds={_GS_RETRY_SECONDS}"]))
    return urlunsplit(parts._replace(query=query))


def _told(uri: str, error: Exception) -> RemoteError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, reason)), None)
    told = RemoteError(f"{uri}: {reason}" + (f"; {advice}" if advice else ""))
    told.may_pass = advice == _ADVICE_ON_NETWORK
    return told
