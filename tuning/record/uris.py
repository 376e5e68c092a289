"""URIs such as s3://BUCKET/PREFIX, as text: which are taken, and how they are joined and split."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from trainables.errors import InputError

SCHEMES = ("s3", "gs", "gcs", "file")


def is_uri(text: object) -> bool:
    """Whether this names a place by a URI, and not by a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(text)) is not None


def join_uri(uri: str, *names: str) -> str:
    """The URI of what is below ``uri``; its query stays at the end."""
    parts = urlsplit(uri)
    path = "/".join([parts.path.rstrip("/"), *names])
    return urlunsplit(parts._replace(path=path))


def split_uri(uri: str) -> tuple[str, str]:
    """The URI of the folder around ``uri``, and its own name there."""
    parts = urlsplit(uri)
    folder, _, name = parts.path.rstrip("/").rpartition("/")
    return urlunsplit(parts._replace(path=folder)), name


def check_uri(uri: str, option: str) -> None:
    """Raise InputError unless ``uri`` names a folder as we take it. Asks nobody."""
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        valid = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{option} = {uri!r}: must be a path, or begin with one of {valid}")
    if "@" in parts.netloc.replace("anonymous@", "") or re.search(
        r"(access|secret)_key", parts.query
    ):
        # It would be in the sweep's description, in its log and in MLflow.
        shown = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
        raise InputError(
            f"{option} = {shown!r}: holds a key, and a URI is written down in many places; give "
            "it by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws/credentials"
        )
    if parts.scheme != "file" and not parts.netloc:
        raise InputError(f"{option} = {uri!r}: names no bucket; such as {parts.scheme}://BUCKET/a")
