"""Is a running cluster fit, and safe? Looks at it from here, and from each of its nodes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.errors import RunFailed
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.dashboard_http import REFUSED, DashboardHttp
from tuning.clusters.node_probe import MARK
from tuning.clusters.submission import run_job
from tuning.doctor.findings import Finding
from tuning.user_code.versions import DECIDING, differing, installed_versions

_SECONDS_FOR_PROBE = 420.0
_BRING_CODE = (
    "`ray up --no-restart` brings them; files that are gone here: rm -r ~/thaw there first"
)
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
    if _status(cluster, cluster.token) in REFUSED:
        yield Finding("token", "wrong", "this machine's token is another cluster's", _COPY_TOKEN)
        return
    try:
        nodes = _run_probe(cluster)
    except RunFailed as error:
        yield Finding("nodes", "wrong", str(error), "see its logs; `ray up` installs Thaw anew")
        return
    yield _count_nodes(cluster, [node["address"] for node in nodes])
    for node in nodes:
        for finding in judge(node):
            yield replace(finding, node=node["address"])


def _status(cluster: Cluster, token: str | None) -> int:
    return DashboardHttp(cluster.url, token).status_of("/api/jobs/")


def _try_token(cluster: Cluster, token: str | None) -> Finding:
    """Whether the dashboard turns away a request without a token, or with a wrong one."""
    request = "a request without a token" if token is None else "a request with a wrong token"
    status = _status(cluster, token)
    if status in REFUSED:
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


def _run_probe(cluster: Cluster) -> list[dict[str, Any]]:
    """Run ``node_probe`` as a job of the cluster; what it says.

    Raises:
        RunFailed: it does not run, or not to its end.
    """
    dashboard = Dashboard(cluster.url, cluster.token)
    arguments = [] if cluster.storage is None else [cluster.storage]
    command = shlex.join(["python", "-m", "tuning.clusters.node_probe", *arguments])
    job, log = run_job(dashboard, "thaw-doctor", command, _SECONDS_FOR_PROBE)
    lines = [line for line in log if line.startswith(MARK)]
    if job.status != "SUCCEEDED" or not lines:
        raise RunFailed(f"job {job.submission_id} ended as {job.status}: {' | '.join(log[-3:])}")
    nodes: list[dict[str, Any]] = json.loads(lines[-1].removeprefix(MARK))
    return nodes


def _count_nodes(cluster: Cluster, addresses: Sequence[str]) -> Finding:
    what = f"{len(addresses)} up: {', '.join(addresses)}"
    if cluster.n_nodes is None or len(addresses) >= cluster.n_nodes:
        return Finding("nodes", "ok", what)
    return Finding(
        "nodes", "wrong", f"{what}, of {cluster.n_nodes} in the cluster's file",
        f"wait a minute after `ray up`; then: ray exec {cluster.name or 'FILE'} "
        "'tail -n 50 /tmp/ray/session_latest/logs/monitor.log'",
    )  # fmt: skip


def judge(node: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings about a node, from what it has reported to ``node_probe``."""
    if "error" in node:
        what = f"it does not answer: {node['error']}"
        yield Finding("nodes", "wrong", what, "look at that machine, then `ray up` again")
        return
    yield _compare_versions(node["versions"])
    yield from (Finding(**each) for each in node["findings"])


def _compare_versions(there: Mapping[str, str]) -> Finding:
    different = differing(installed_versions(), there)
    if different.keys() & {*DECIDING}:
        return Finding(
            "versions", "wrong", "; ".join(different.values()),
            "ray up from this checkout; the cluster file names Python's, pyproject.toml Ray's",
        )  # fmt: skip
    if different:
        return Finding("versions", "warning", "; ".join(different.values()), _BRING_CODE)
    shown = ", ".join(f"{name} {there[name]}" for name in DECIDING)
    return Finding("versions", "ok", f"as here: {shown}")
