"""Where MLflow, Ray and the sweeps' folder are: checked before anything starts. Imports neither."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from trainables.errors import InputError

_TRACKING_URI = re.compile(
    r"sqlite:///.+|https?://.+|(postgresql|mysql|mssql)(\+\w+)?://.+|databricks.*"
)
_SQLITE_HEADER = b"SQLite format 3\0"
_CLUSTER = re.compile(r"(?:ray://)?(?P<host>[^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
_CONNECT_SECONDS = 5


def resolve_tracking_uri(given: str | None) -> str:
    """Where MLflow is: as given, else $MLFLOW_TRACKING_URI, else ``mlflow.db`` right here.

    Raises:
        InputError: MLflow can not write to such a place.
    """
    source, uri = "--tracking-uri", given
    if uri is None:
        source = "$MLFLOW_TRACKING_URI"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    _check_tracking_uri(source, uri)
    if not uri.startswith("sqlite:///"):
        return uri
    path = Path(uri.removeprefix("sqlite:///")).resolve()
    check_writable(path.parent, source)
    if path.exists() and not (path.is_file() and _may_be_sqlite(path)):
        raise InputError(f"{source} = {uri!r}: {str(path)!r} is there, but is no SQLite database")
    return f"sqlite:///{path}"


def tracking_uri_elsewhere(given: str | None) -> str:
    """Where MLflow is for another machine: as given, else empty, for that one to find.

    Raises:
        InputError: MLflow can not write to such a place.
    """
    if given is None:
        return ""
    _check_tracking_uri("--tracking-uri", given)
    return given


def _check_tracking_uri(source: str, uri: str) -> None:
    if not _TRACKING_URI.fullmatch(uri):
        raise InputError(
            f"{source} = {uri!r}: must start with sqlite:///, http://, https:// or postgresql://; "
            "MLflow no longer writes to plain folders"
        )


def _may_be_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE_HEADER)) in (b"", _SQLITE_HEADER)


def resolve_address(given: str | None) -> str | None:
    """The Ray cluster to join: as given, else $RAY_ADDRESS; None starts Ray on this machine.

    Raises:
        InputError: it is no address, or nobody answers there. Ray itself waits two minutes for
            that and then ends the process.
    """
    source, address = "--address", given
    if address is None:
        source, address = "$RAY_ADDRESS", os.environ.get("RAY_ADDRESS") or None
    if address in (None, "auto", "local"):
        return address
    found = _CLUSTER.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise InputError(
            f"{source} = {address!r}: must be HOST:PORT of a Ray cluster's head, such as "
            "10.0.0.1:6379, ray://HOST:PORT, or auto"
        )
    try:
        place = (found["host"].strip("[]"), int(found["port"]))
        socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"{source} = {address!r}: no Ray cluster answers there ({error})"
        ) from None
    return address


def check_writable(folder: Path, option: str) -> None:
    """Raise InputError unless ``folder`` is there and can be written, or could be made."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{option}: {str(existing)!r} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{option}: folder {str(existing)!r} can not be written")
