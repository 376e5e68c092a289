"""Is a running cluster fit, and safe? Looks at it from here, and from each of its nodes."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.errors import RunFailed
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.dashboard_http import DashboardHttp
from tuning.clusters.node_probe import MARK
from tuning.clusters.node_verdicts import judge
from tuning.clusters.submission import wait_until_ended
from tuning.doctor.findings import Finding

_SECONDS_FOR_PROBE = 420.0
_REFUSED = (401, 403)  # status of an answer to a request without the right token
_COPY_TOKEN = "copy ~/.ray/auth_token from the cluster's head to this machine, mode 600"


@dataclass(frozen=True)
class Cluster:
    """A cluster to examine."""

    url: str  # of its dashboard, as reached from here
    token: str | None
    name: str | None = None  # of its file, for what is to be typed
    n_nodes: int | None = None  # that should be up; None: any number
    storage: str | None = None  # a sweeps folder that every node must be able to write


def examine_cluster(cluster: Cluster) -> Iterator[Finding]:
    """Look at a cluster; each finding comes as soon as it is had.

    Raises:
        RunFailed: it does not answer at all.
    """
    door = [_try_token(cluster, None), _try_token(cluster, "not-the-token")]
    yield from door
    if cluster.token is None and any(finding.state == "ok" for finding in door):
        yield Finding(
            "token", "wrong", "this machine has no token, so the cluster answers nothing more",
            _COPY_TOKEN,
        )  # fmt: skip
        return
    if _status(cluster, cluster.token) in _REFUSED:
        yield Finding("token", "wrong", "this machine's token is another cluster's", _COPY_TOKEN)
        return
    try:
        report = _run_probe(cluster)
    except RunFailed as error:
        yield Finding("nodes", "wrong", str(error), "see its logs; `ray up` installs Thaw anew")
        return
    yield from _examine_nodes(cluster, report)
    yield from judge(report)


def _status(cluster: Cluster, token: str | None) -> int:
    return DashboardHttp(cluster.url, token).status_of("/api/jobs/")


def _try_token(cluster: Cluster, token: str | None) -> Finding:
    """Whether the dashboard turns away a request without a token, or with a wrong one."""
    request = "a request without a token" if token is None else "a request with a wrong token"
    status = _status(cluster, token)
    if status in _REFUSED:
        return Finding("token", "ok", f"{request} is refused ({status})")
    try:
        Dashboard(cluster.url, token).ray_version()
    except (ValueError, KeyError, TypeError, RunFailed):
        raise RunFailed(f"what answers at {cluster.url} is no Ray dashboard") from None
    return Finding(
        "token", "wrong",
        f"{request} is taken ({status}): anybody who reaches the cluster can run code there",
        "export RAY_AUTH_MODE=token before each `ray start`, as clusters/node_env.sh does",
    )  # fmt: skip


def _run_probe(cluster: Cluster) -> dict[str, Any]:
    """Run ``node_probe`` as a job of the cluster; what it says.

    Raises:
        RunFailed: it does not run, or not to its end.
    """
    dashboard = Dashboard(cluster.url, cluster.token)
    name = f"thaw-doctor-{uuid.uuid4().hex[:8]}"
    arguments = [] if cluster.storage is None else [cluster.storage]
    dashboard.submit(name, shlex.join(["python", "-m", "tuning.clusters.node_probe", *arguments]))
    try:
        job = wait_until_ended(dashboard, name, _SECONDS_FOR_PROBE)
    except RunFailed:
        dashboard.stop(name)
        raise
    log = dashboard.log(name)
    lines = [line for line in log if line.startswith(MARK)]
    if job.status != "SUCCEEDED" or not lines:
        raise RunFailed(f"job {name} ended as {job.status}: {' | '.join(log[-3:])}")
    document: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return document


def _examine_nodes(cluster: Cluster, report: Mapping[str, Any]) -> Iterator[Finding]:
    addresses = [node["address"] for node in report["nodes"]]
    what = f"{len(addresses)} up: {', '.join(addresses)}"
    if cluster.n_nodes is not None and len(addresses) < cluster.n_nodes:
        yield Finding(
            "nodes", "wrong", f"{what}, of {cluster.n_nodes} in the cluster's file",
            f"wait a minute after `ray up`; then: ray exec {cluster.name or 'FILE'} "
            "'tail -n 50 /tmp/ray/session_latest/logs/monitor.log'",
        )  # fmt: skip
    else:
        yield Finding("nodes", "ok", what)
