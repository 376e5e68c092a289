"""Whether this machine has what a sweep's trials need, as the driver's has it. Runs in workers."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.config import check_config
from trainables.errors import InputError
from trainables.tasks.row import TaskRow
from trainables.tasks.table import task_row

_CHUNK_BYTES = 2**20
_HINT = (
    "; every node needs it at the same path: copy or mount it there, or name a place that all see"
)


class Unfit(Exception):
    """No trial can run on this machine; the message names it, the reason and what to do."""


@dataclass(frozen=True)
class Needs:
    """What the driver's machine has, and any other must have too. Plain values."""

    code: str | None = None  # digest of the user's training file and the modules beside it
    digests: Mapping[str, str] = field(default_factory=dict)  # path but of the data -> digest


def here() -> str:
    """What to call this machine in a message."""
    ray = sys.modules.get("ray")
    address = ""
    if ray is not None and ray.is_initialized():
        address = f" ({ray.util.get_node_ip_address()})"
    return f"node {socket.gethostname()}{address}"


_found_fit: set[str] = set()  # by this process: it asks for the time of every file of the data


def check_fitness(
    task: str | None,
    config: Mapping[str, Any],
    fingerprint: str | None,
    needs: Needs,
    cache_folder: Path,
) -> None:
    """See that a configuration's data and files are here, and are what the driver has.

    Args:
        fingerprint: of the data, as the driver has it; None where it does not know.

    Raises:
        Unfit: something is missing or differs.
    """
    if task is None:
        return
    row = task_row(task)
    key = json.dumps([task, what_decides(config, row), fingerprint, str(cache_folder)])
    if key in _found_fit:
        return
    try:
        checked = check_config(config, row.config_type)
        row.check(checked)
        row.fetch(checked)
        found = row.prepare(checked, cache_folder).info.fingerprint
        digests = {path: digest_of_path(Path(path)) for path in paths_of(config, row).values()}
    except (InputError, OSError) as error:
        raise Unfit(f"{here()}: {error}{_HINT}") from error
    if fingerprint not in (None, found):
        raise Unfit(
            f"{here()}: data = {config['data']!r}: is not what the driver has; its fingerprint is "
            f"{found} here and {fingerprint} there{_HINT}"
        )
    for name, path in paths_of(config, row).items():
        if needs.digests.get(path) not in (None, digests[path]):
            raise Unfit(f"{here()}: {name} = {path!r}: is not what the driver has{_HINT}")
    _found_fit.add(key)


def what_decides(config: Mapping[str, Any], row: TaskRow) -> dict[str, Any]:
    """The settings that say which data and files a training reads."""
    names = {*row.config_type.DATA_FIELDS, *row.path_fields, "model"}
    return {name: config.get(name) for name in sorted(names)}


def paths_of(config: Mapping[str, Any], row: TaskRow) -> dict[str, str]:
    """Settings other than the data that name a file or folder, with its path."""
    return {
        name: str(value)
        for name, known in row.path_fields.items()
        if name != "data" and (value := config.get(name)) not in (None, *known)
        if Path(str(value)).is_absolute()  # else it is a name, such as one of a hub
    }


def digest_of_path(path: Path) -> str:
    """A digest of a file's content, or of all files below a folder and their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:20]
