"""What a cluster file for `ray up` says that its user's own machine needs to know."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.data.paths import data_path
from trainables.errors import InputError, RunFailed


@dataclass(frozen=True)
class ClusterFile:
    """A cluster as its file describes it, whether it runs or not."""

    path: Path
    name: str
    provider: Mapping[str, Any]
    auth: Mapping[str, Any]

    @property
    def is_local(self) -> bool:
        """Machines one already has: their addresses are in the file, and stay the same."""
        return self.provider["type"] == "local" and "head_ip" in self.provider

    @property
    def n_nodes(self) -> int | None:
        """How many nodes it has when all are up; None where that depends on the work there is."""
        return 1 + len(self.provider["worker_ips"]) if self.is_local else None


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file and check it against Ray's own schema.

    Raises:
        InputError: it is not there, or no cluster file.
    """
    try:
        values = yaml.safe_load(data_path(str(path), "--cluster").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--cluster = {str(path)!r}: can not be read: {error}") from error
    if not isinstance(values, dict) or not {"cluster_name", "provider"} <= values.keys():
        raise InputError(
            f"--cluster = {str(path)!r}: must be a cluster file for `ray up`, with cluster_name "
            "and provider; there are cluster.yaml and clusters/local.yaml"
        )
    _check_with_ray(path, values)
    auth = values.get("auth") or {}
    if "ssh_user" not in auth:
        raise InputError(f"--cluster = {str(path)!r}: auth has no ssh_user")
    return ClusterFile(path.resolve(), values["cluster_name"], values["provider"], auth)


def _check_with_ray(path: Path, values: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        # Ray prints what it finds wrong, and ends the process.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(values))
    except (Exception, SystemExit) as error:
        reason = getattr(error, "message", None) or said.getvalue().strip() or error
        raise InputError(
            f"--cluster = {str(path)!r}: is not what `ray up` takes: {reason}"
        ) from error


def head_address(cluster: ClusterFile) -> str:
    """Where this machine reaches the head by SSH.

    Raises:
        RunFailed: the provider knows of no head that runs.
    """
    if cluster.is_local:
        return str(cluster.provider.get("external_head_ip") or cluster.provider["head_ip"])
    from ray.autoscaler.sdk import get_head_node_ip

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return str(get_head_node_ip(str(cluster.path)))
    except Exception as error:  # of Ray, or of the provider's own library
        raise RunFailed(
            f"cluster {cluster.name} has no head that runs ({error}); start it with\n"
            f"  ray up {cluster.path}"
        ) from error


def ssh_key(cluster: ClusterFile) -> Path | None:
    """The private key for the cluster's machines; None leaves it to SSH.

    Raises:
        InputError: the file is not there.
    """
    given = cluster.auth.get("ssh_private_key")
    if given is None and not cluster.is_local:
        given = _key_made_by_ray(cluster)
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file():
        raise InputError(
            f"--cluster = {str(cluster.path)!r}: ssh_private_key = {given!r}: no such file"
        )
    return path


def _key_made_by_ray(cluster: ClusterFile) -> str | None:
    """`ray up` has made a key pair and remembers it; asked with what it was given then."""
    from ray.autoscaler._private.commands import _bootstrap_config

    with contextlib.redirect_stdout(io.StringIO()):
        config = _bootstrap_config(yaml.safe_load(cluster.path.read_text()))
    key = config["auth"].get("ssh_private_key")
    return None if key is None else str(key)
