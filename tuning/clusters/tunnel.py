"""The way to a cluster: by its dashboard's address, or by SSH to its head."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trainables.errors import InputError, RunFailed
from tuning.clusters.cluster_file import ClusterFile, head_address, read_cluster_file, ssh_key
from tuning.clusters.dashboard import Dashboard, connect

DEFAULT_CLUSTER_FILE = Path("cluster.yaml")
DASHBOARD = ("127.0.0.1", 8265)  # as the head sees it
_CONNECT_SECONDS = 15
_READY = "thaw-tunnel-ready"


@dataclass(frozen=True)
class Tunnel:
    """An open tunnel; ``url`` is its end on this machine."""

    url: str
    process: subprocess.Popen[str]


def ssh_command(cluster: ClusterFile, *options: str) -> list[str]:
    """SSH to the head of ``cluster``, without its command.

    Raises:
        InputError: the key's file is not there.
        RunFailed: no head runs.
    """
    key, proxy = ssh_key(cluster), cluster.auth.get("ssh_proxy_command")
    settings = {
        "BatchMode": "yes",  # fail, instead of asking for a password
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ControlMaster": "no",  # the user's own settings may leave a process behind
        "ControlPath": "none",
        "LogLevel": "ERROR",
        **_host_key_settings(cluster),
        **({"ProxyCommand": str(proxy)} if proxy else {}),
    }
    return [
        "ssh",
        *(["-i", str(key), "-o", "IdentitiesOnly=yes"] if key else []),
        *(part for name, value in settings.items() for part in ("-o", f"{name}={value}")),
        *options,
        f"{cluster.auth['ssh_user']}@{head_address(cluster)}",
    ]


def _host_key_settings(cluster: ClusterFile) -> dict[str, str]:
    """One's own machines keep their keys; a cloud gives an address to ever new machines."""
    if cluster.is_local:
        known = _own_folder() / f"{cluster.name}.known_hosts"
        return {"StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": f'"{known}"'}
    return {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}  # as `ray up` does


def _own_folder() -> Path:
    """Where this machine keeps what it learns of clusters."""
    path = Path("~/.thaw/clusters").expanduser()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def run_on_head(cluster: ClusterFile, command: str, timeout_seconds: float = 60) -> str:
    """What ``command`` prints on the head.

    Raises:
        InputError: the key's file is not there.
        RunFailed: the head can not be reached, or the command fails there.
    """
    try:
        result = subprocess.run(
            [*ssh_command(cluster), command],
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"{_head(cluster)} does not answer within {timeout_seconds:g} s") from None
    if result.returncode == 255:  # ssh's own
        raise RunFailed(f"{_head(cluster)} can not be reached by SSH: {result.stderr.strip()}")
    if result.returncode != 0:
        raise RunFailed(f"{_head(cluster)}: {command!r} failed there: {result.stderr.strip()}")
    return result.stdout


def _head(cluster: ClusterFile) -> str:
    return f"the head of cluster {cluster.name}"


@contextmanager
def open_tunnel(
    cluster: ClusterFile, remote: tuple[str, int] = DASHBOARD, port: int | None = None
) -> Iterator[Tunnel]:
    """Make ``remote``, as the head sees it, a port of this machine's loopback while the block runs.

    Args:
        cluster: whose head.
        remote: host and port.
        port: of this machine; None takes a free one.

    Raises:
        InputError: the port is in use, or the key's file is not there.
        RunFailed: the head can not be reached.
    """
    port = free_port(port)
    forward = f"127.0.0.1:{port}:{remote[0]}:{remote[1]}"
    command = ssh_command(cluster, "-o", "ExitOnForwardFailure=yes", "-L", forward)
    # The far end reads until we close our end, which the system does for us even if we are killed:
    # so no ssh stays behind. In a session of its own, because Ctrl-C is ours to answer.
    with subprocess.Popen(
        [*command, f"echo {_READY}; exec cat >/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _wait_until_ready(cluster, process)
            yield Tunnel(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()


def _wait_until_ready(cluster: ClusterFile, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    timer = threading.Timer(2 * _CONNECT_SECONDS, process.terminate)
    timer.start()
    try:
        for line in process.stdout:
            if line.strip() == _READY:
                return
    finally:
        timer.cancel()
    reason = process.stderr.read().strip() or "no answer"
    raise RunFailed(f"{_head(cluster)} can not be reached by SSH: {reason}")


def free_port(wanted: int | None) -> int:
    """``wanted`` if nobody listens on it here, or any such port.

    Raises:
        InputError: it is in use.
    """
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise InputError(f"--port = {wanted}: is in use on this machine ({error})") from None
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class ClusterMlflow:
    """The MLflow server of a cluster, as its own nodes reach it."""

    host: str
    port: int
    user: str
    password: str


def find_mlflow(cluster: ClusterFile) -> ClusterMlflow:
    """Ask the head where its MLflow is, and how to log in.

    Raises:
        RunFailed: it can not be reached, or was not set up by our cluster files.
    """
    text = run_on_head(cluster, "cat ~/.thaw/cluster.env")
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        url = urlsplit(values["MLFLOW_TRACKING_URI"])
        user, password = (values[f"MLFLOW_TRACKING_{name}"] for name in ("USERNAME", "PASSWORD"))
        return ClusterMlflow(str(url.hostname), url.port or 80, user, password)
    except (KeyError, ValueError) as error:
        raise RunFailed(
            f"{_head(cluster)}: ~/.thaw/cluster.env is not as mlflow_server.py writes it ({error})"
        ) from error


def keep_password(cluster: ClusterFile, mlflow: ClusterMlflow) -> Path:
    """Write the password to a file of this machine that only its user can read."""
    path = _own_folder() / f"{cluster.name}.mlflow-password"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(mlflow.password + "\n")
    return path


@dataclass(frozen=True)
class Reached:
    """A cluster that answers, and how to name it on a command line."""

    dashboard: Dashboard
    option: str


@contextmanager
def reach(cluster_file: Path | None, address: str | None) -> Iterator[Reached]:
    """Connect to the cluster of a file, through SSH, or to the dashboard at an address.

    With neither, to that of ``cluster.yaml`` in this folder.

    Raises:
        InputError: both are given, or there is neither, or the cluster does not let us in.
    """
    if cluster_file is not None and address is not None:
        raise InputError("--cluster and --address can not be combined")
    if address is not None:
        yield Reached(connect(address), f"--address {address}")
        return
    if cluster_file is None:
        cluster_file = DEFAULT_CLUSTER_FILE
        if not cluster_file.is_file():
            raise InputError(
                "no cluster is named: give --cluster FILE (its file for `ray up`) or --address URL "
                f"(its dashboard); there is no {str(DEFAULT_CLUSTER_FILE)!r} here"
            )
    with open_tunnel(read_cluster_file(cluster_file)) as tunnel:
        yield Reached(connect(tunnel.url, "--cluster"), f"--cluster {cluster_file}")
