"""What nodes a cluster's autoscaler may still add.

Ray 2.60 keeps a place for this in its control store, which some platforms fill, but neither of its
own autoscalers does. They read a file on the head, which names it on the command line of Ray's
monitor; ``ray up`` writes it with the resources of each node type filled in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuning.record.resources import Node

_MOST_NODES = 1000  # where a node type has no limit
_FLAG = "--autoscaling-config="
_SECONDS_TO_ASK_HEAD = 60.0


def nodes_to_come() -> list[Node]:
    """All nodes that the cluster may have at once beside its head; none if it never adds any."""
    return _from_control_store() or _from_file(_head_file())


def _from_control_store() -> list[Node]:
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    nodes = []
    for group in config.node_group_configs:
        n = group.max_count if group.max_count >= 0 else _MOST_NODES
        has = dict(group.resources)
        nodes += [Node(has.get("CPU", 0), has.get("GPU", 0), group.name or "node")] * n
    return nodes[:_MOST_NODES]


def _from_file(config: dict[str, Any]) -> list[Node]:
    """The worker nodes that an autoscaler with this configuration starts at most."""
    at_most = min(config.get("max_workers", 2), _MOST_NODES)  # Ray's default
    nodes = []
    for name, kind in config.get("available_node_types", {}).items():
        if name == config.get("head_node_type"):
            continue
        has = kind.get("resources", {})
        node = Node(float(has.get("CPU", 0)), float(has.get("GPU", 0)), name)
        nodes += [node] * min(kind.get("max_workers", at_most), at_most)
    # All types together have a limit, too: count on what holds most.
    return sorted(nodes, key=lambda node: (-node.gpus, -node.cpus))[:at_most]


def _head_file() -> dict[str, Any]:
    """The configuration that the autoscaler on the cluster's head runs with; empty if none."""
    import ray

    address = ray.get_runtime_context().gcs_address
    if _is_head():
        return read_monitors_file(address)
    ask = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})(read_monitors_file)
    found: dict[str, Any] = ray.get(ask.remote(address), timeout=_SECONDS_TO_ASK_HEAD)
    return found


def _is_head() -> bool:
    import ray

    me = ray.get_runtime_context().get_node_id()
    here = [node for node in ray.nodes() if node["NodeID"] == me]
    return any("node:__internal_head__" in node["Resources"] for node in here)


def read_monitors_file(gcs_address: str) -> dict[str, Any]:
    """What the monitor on this machine was told that serves the cluster at ``gcs_address``."""
    import yaml  # type: ignore[import-untyped]  # of ray

    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        files = [each.removeprefix(_FLAG) for each in arguments if each.startswith(_FLAG)]
        if files and f"--gcs-address={gcs_address}" in arguments:
            found: dict[str, Any] = yaml.safe_load(Path(files[0]).expanduser().read_text())
            return found
    return {}
