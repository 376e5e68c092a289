"""Runs on a cluster and has each node look at itself. `thaw doctor` submits it as a job.

``python -m tuning.clusters.node_probe [STORAGE]`` prints one line that begins with ``MARK`` and
holds JSON: of each node its address, versions and findings, or the error that came instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from tuning.clusters.dashboard_http import DEFAULT_PORT, REFUSED, DashboardHttp, Unreachable
from tuning.doctor.findings import Finding, State

MARK = "thaw-node-probe "
_SECONDS_PER_NODE = 240.0  # a worker's first start took 40 s on a busy machine
_N_CLOCK_READINGS = 5
# Beyond the error of measuring. Trials' times and MLflow's order of events come from many clocks.
_CLOCK_WARNING_SECONDS, _CLOCK_WRONG_SECONDS = 1.0, 5.0
_AGENT_PORT = 52365  # of Ray's agent, unless it was started with another
_EVERYWHERE, _LOOPBACK = ("0.0.0.0", "::"), ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def main() -> None:
    """Ask every living node; print the answers."""
    import ray

    storage = sys.argv[1] if len(sys.argv) > 1 else None
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    asked = [_ask(node, storage) for node in ray.nodes() if node["Alive"]]
    print(MARK + json.dumps([_hear(*each) for each in asked]), flush=True)


def _ask(node: dict[str, Any], storage: str | None) -> tuple[dict[str, Any], Any, Any]:
    """Start an actor on a node; it takes no resources, so that it always fits."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=0)(_Node)
    handle = actor.options(scheduling_strategy=strategy).remote()
    is_head = node["NodeManagerAddress"] == ray.util.get_node_ip_address()
    answer = handle.look.remote(node["Resources"].get("GPU", 0.0), storage, is_head=is_head)
    return node, handle, answer


def _hear(node: dict[str, Any], handle: Any, answer: Any) -> dict[str, Any]:
    import ray

    address = node["NodeManagerAddress"]
    try:
        found = ray.get(answer, timeout=_SECONDS_PER_NODE)
        more = (clock_finding(*_compare_clocks(handle)), agent_finding(_agent_refuses(node)))
    except Exception as error:  # the node is lost, or Ray can not start a worker there
        return {"address": address, "error": str(error).strip().splitlines()[-1][:500]}
    findings = [*found["findings"], *map(asdict, more)]
    return {"address": address, "versions": found["versions"], "findings": findings}


def _compare_clocks(handle: Any) -> tuple[float, float]:
    """How far a node's clock is ahead of ours, and the error of that measurement, in seconds.

    A few questions are asked; the one that is answered soonest counts.
    """
    import ray

    best = (float("inf"), 0.0)
    for _ in range(_N_CLOCK_READINGS):
        asked = time.time()
        there = ray.get(handle.clock.remote(), timeout=_SECONDS_PER_NODE)
        heard = time.time()
        best = min(best, (heard - asked, there - (asked + heard) / 2))
    return best[1], best[0] / 2


def clock_finding(ahead: float, error: float) -> Finding:
    """Whether a node's clock agrees with the head's; both arguments in seconds."""
    what = f"{abs(ahead):.2f} s {'ahead of' if ahead >= 0 else 'behind'} the head's (± {error:.2f})"
    surely = abs(ahead) - error
    if surely < _CLOCK_WARNING_SECONDS:
        return Finding("clock", "ok", what)
    state: State = "wrong" if surely > _CLOCK_WRONG_SECONDS else "warning"
    return Finding("clock", state, what, "keep it by NTP: sudo timedatectl set-ntp true")


def _agent_refuses(node: dict[str, Any]) -> bool | None:
    """Whether a node's agent, which accepts jobs too, refuses requests without a token.

    None if it can not be reached.
    """
    from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX
    from ray.experimental.internal_kv import _internal_kv_get

    key = f"{DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX}{node['NodeID']}"
    value = _internal_kv_get(key, namespace=b"dashboard")
    port = int(json.loads(value)[1]) if value else _AGENT_PORT
    agent = DashboardHttp(f"http://{node['NodeManagerAddress']}:{port}", None)
    try:
        return agent.status_of("/api/job_agent/jobs/none/logs") in REFUSED
    except Unreachable:
        return None


def agent_finding(refuses: bool | None) -> Finding:
    """Judge what ``_agent_refuses`` found: an agent must refuse requests without a token."""
    if refuses is False:
        return Finding(
            "token", "wrong", "its agent takes jobs without a token",
            "export RAY_AUTH_MODE=token before `ray start` there",
        )  # fmt: skip
    said = "refuses" if refuses else "is not reached"
    return Finding("token", "ok", f"without a token its agent {said}")


class _Node:
    """Looks around on one node."""

    def clock(self) -> float:
        return time.time()

    def look(self, gpus_of_ray: float, storage: str | None, *, is_head: bool) -> dict[str, Any]:
        from tuning.doctor.machine import disk_finding, gpu_finding, storage_finding
        from tuning.record.sweep import default_cache_folder
        from tuning.user_code.versions import installed_versions

        mlflow = os.environ.get("MLFLOW_TRACKING_URI")
        found = [
            gpu_finding(gpus_of_ray),
            disk_finding("the cache", default_cache_folder()),
            disk_finding("Ray", Path("/tmp")),
            *mlflow_findings(mlflow),
            *([] if storage is None else [storage_finding(storage)]),
            *(door_findings(mlflow, listening_sockets()) if is_head else []),
        ]
        return {"versions": installed_versions(), "findings": [asdict(each) for each in found]}


def mlflow_findings(address: str | None) -> list[Finding]:
    """Whether the node's MLflow server is well; a warning if the node knows of no server."""
    from tuning.doctor.mlflow_probe import examine_mlflow

    if address and address.startswith("http"):
        return examine_mlflow(address)
    return [
        Finding(
            "MLflow", "warning", "MLFLOW_TRACKING_URI is not set there: trials find no MLflow",
            "export it before `ray start`, as clusters/node_env.sh does",
        )
    ]  # fmt: skip


def listening_sockets() -> list[tuple[str, int]]:
    """The addresses and TCP ports that this machine listens on; empty where it does not say."""
    with suppress(psutil.Error, OSError):
        found = psutil.net_connections(kind="tcp")
        return sorted({tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN})
    return []


def door_findings(mlflow: str | None, listening: Iterable[tuple[str, int]]) -> Iterator[Finding]:
    """Whether the dashboard or MLflow can be reached from outside of the cluster."""
    ports = {"the dashboard": DEFAULT_PORT, "MLflow": urlsplit(mlflow or "").port}
    for name, port in ports.items():
        addresses = [address for address, each in listening if each == port]
        if not addresses:
            continue
        what = f"{name} listens on {', '.join(addresses)}, port {port}"
        is_inside = all(address in _LOOPBACK for address in addresses)
        if name == "the dashboard" and not is_inside:
            mend = "start it with --dashboard-host=127.0.0.1"
            yield Finding("ports", "warning", what, mend)
        elif any(address in _EVERYWHERE for address in addresses):
            mend = "start it with clusters/mlflow_server.py, which binds it to the private address"
            yield Finding("ports", "warning", what, mend)
        else:
            yield Finding("ports", "ok", what)


if __name__ == "__main__":
    main()
