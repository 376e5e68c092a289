"""Runs on a cluster and asks each node about itself. `thaw doctor` submits it as a job.

``python -m tuning.clusters.node_probe [STORAGE]`` prints one line that begins with ``MARK`` and
holds JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

MARK = "thaw-node-probe "
_SECONDS_PER_NODE = 240.0  # a worker's first start took 40 s on a busy machine
_N_CLOCK_READINGS = 5
_LISTENING = "0A"  # a socket's state in /proc/net/tcp
_AGENT_PORT = 52365  # of Ray's agent, unless it was started with another


def main() -> None:
    """Ask every living node; print the answers."""
    import ray

    storage = sys.argv[1] if len(sys.argv) > 1 else None
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    document = {
        "head_ip": ray.util.get_node_ip_address(),
        "mlflow": os.environ.get("MLFLOW_TRACKING_URI"),
        "nodes": _ask_all(nodes, storage),
    }
    print(MARK + json.dumps(document), flush=True)


def _ask_all(nodes: list[dict[str, Any]], storage: str | None) -> list[dict[str, Any]]:
    """Start one actor on each node, all at once; it takes no resources, so that it always fits."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor = ray.remote(num_cpus=0, max_restarts=0)(_Node)
    asked = []
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        handle = actor.options(scheduling_strategy=strategy).remote()
        asked.append((node, handle, handle.facts.remote(storage)))
    return [_hear(*each) for each in asked]


def _hear(node: dict[str, Any], handle: Any, answer: Any) -> dict[str, Any]:
    import ray

    known = {
        "address": node["NodeManagerAddress"],
        "gpus_of_ray": node["Resources"].get("GPU", 0.0),
        "refuses_without_token": _agent_refuses(*_agent_address(node)),
    }
    try:
        facts = ray.get(answer, timeout=_SECONDS_PER_NODE)
        return {**known, **facts, **_compare_clocks(handle)}
    except Exception as error:  # the node is lost, or Ray can not start a worker there
        return {**known, "error": str(error).strip().splitlines()[-1][:500]}


def _compare_clocks(handle: Any) -> dict[str, float]:
    """How far the node's clock is ahead of ours, by the quickest of a few questions."""
    import ray

    best = (float("inf"), 0.0)
    for _ in range(_N_CLOCK_READINGS):
        asked = time.time()
        there = ray.get(handle.clock.remote(), timeout=_SECONDS_PER_NODE)
        heard = time.time()
        best = min(best, (heard - asked, there - (asked + heard) / 2))
    return {"clock_ahead_seconds": best[1], "clock_error_seconds": best[0] / 2}


def _agent_address(node: dict[str, Any]) -> tuple[str, int]:
    """Where the node's agent listens, which every node has and which takes jobs, too."""
    from ray.dashboard.consts import DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX
    from ray.experimental.internal_kv import _internal_kv_get

    key = f"{DASHBOARD_AGENT_ADDR_NODE_ID_PREFIX}{node['NodeID']}"
    value = _internal_kv_get(key, namespace=b"dashboard")
    return (
        node["NodeManagerAddress"],
        int(json.loads(value)[1]) if value else _AGENT_PORT,
    )


def _agent_refuses(address: str, port: int) -> bool | None:
    """Whether an agent turns away who has no token; None if it can not be reached."""
    import http.client

    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.request("GET", "/api/job_agent/jobs/none/logs")
        return connection.getresponse().status in (401, 403)
    except OSError:
        return None
    finally:
        connection.close()


class _Node:
    """Looks around on one node."""

    def clock(self) -> float:
        return time.time()

    def facts(self, storage: str | None) -> dict[str, Any]:
        from tuning.doctor.machine import driver_gpus, storage_error, torch_gpus
        from tuning.doctor.mlflow_probe import examine_mlflow
        from tuning.record.sweep import default_cache_folder
        from tuning.user_code.versions import installed_versions

        of_driver, mlflow = driver_gpus(), os.environ.get("MLFLOW_TRACKING_URI")
        address = mlflow if mlflow and mlflow.startswith("http") else None
        return {
            "host": socket.gethostname(),
            "versions": installed_versions(),
            "n_cpus": os.cpu_count(),
            "gpus_of_driver": of_driver,
            "gpus_of_torch": torch_gpus() if of_driver else 0,
            "free_bytes": _free_bytes({"the cache": default_cache_folder(), "Ray": Path("/tmp")}),
            "listening": listening_sockets(),
            "mlflow": [asdict(each) for each in examine_mlflow(address)] if address else [],
            "storage": None if storage is None else {"error": storage_error(storage)},
        }


def _free_bytes(folders: dict[str, Path]) -> dict[str, tuple[str, int]]:
    found = {}
    for name, folder in folders.items():
        while not folder.exists():
            folder = folder.parent
        found[name] = (str(folder), shutil.disk_usage(folder).free)
    return found


def listening_sockets() -> list[tuple[str, int]]:
    """The addresses and TCP ports that this machine listens on; empty where there is no /proc."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING:
                    address, _, port = fields[1].rpartition(":")
                    found.add((_decode(address, family), int(port, 16)))
    return sorted(found)


def _decode(address: str, family: int) -> str:
    """An address as the kernel prints it: 32-bit words, each in the machine's own byte order."""
    words = [bytes.fromhex(address[i : i + 8]) for i in range(0, len(address), 8)]
    ordered = (word[::-1] if sys.byteorder == "little" else word for word in words)
    return socket.inet_ntop(family, b"".join(ordered))


if __name__ == "__main__":
    main()
