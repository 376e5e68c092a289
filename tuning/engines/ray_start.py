"""Starts Ray, or joins it. Without Ray Tune, which is imported meanwhile: it takes seconds."""

from __future__ import annotations

import gc
import inspect
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._raylet import persist_port  # type: ignore[attr-defined]

from trainables.errors import InputError, RunFailed
from tuning.engines.autoscaling import nodes_to_come
from tuning.engines.ports import free_ports
from tuning.engines.ray_watch import RayWatch
from tuning.record.resources import Node, Resources, describe_nodes, n_fitting
from tuning.record.sweep import Sweep, resources_of
from tuning.storage.addresses import resolve_address
from tuning.user_code.sent_files import runtime_env

# Ray's names of them
_AGENTS_PORTS = (
    "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)  # fmt: skip
_watch: RayWatch | None = None  # over a Ray of our own


def start(sweep: Sweep) -> list[Node]:
    """Start Ray on this machine, or join the cluster at the sweep's address; its nodes.

    Raises:
        InputError: the cluster can not be joined.
        RunFailed: Ray does not start.
    """
    # Ray's own notices tell of its internals; what concerns a sweep is said by Thaw.
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        _join(sweep.address) if sweep.address else _start_here()
    return alive_nodes()


def _join(address: str) -> None:
    resolve_address(address)
    try:
        _init(address=address)
    except Exception as error:
        raise InputError(
            f"--address = {address!r}: that Ray cluster can not be joined: {error}"
        ) from error


def _start_here() -> None:
    try:
        with agents_may_start_slowly():
            _init(address="local", include_dashboard=False)
    except Exception as error:  # a plain one where Ray takes more than 30 s
        raise RunFailed(
            f"Ray did not start on this machine: {error} Nothing was lost; give the same command "
            "again when the machine has less to do, or look into /tmp/ray/session_latest/logs"
        ) from error


@contextmanager
def agents_may_start_slowly() -> Iterator[None]:
    """Choose the ports of the node manager's agents, which else has to hear of them.

    It would wait 15 s for each, and then end: on a busy machine agents take longer to start. Ray
    has no option for all of these ports.
    """
    start_raylet = services.start_raylet
    signature = inspect.signature(start_raylet)

    def start_with_ports(*arguments: Any, **options: Any) -> Any:
        place = signature.bind(*arguments, **options).arguments
        ports = dict(zip(_AGENTS_PORTS, free_ports(len(_AGENTS_PORTS)), strict=True))
        for name, port in ports.items():  # as the agent does itself when it listens
            persist_port(place["session_dir"], place["node_id"], name, port)
        return start_raylet(*arguments, **{**options, **ports})

    services.start_raylet = start_with_ports
    try:
        yield
    finally:
        services.start_raylet = start_raylet


def _init(**options: Any) -> None:
    with _own_sigterm():
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(runtime_env=runtime_env(), **quiet, **options)


def alive_nodes() -> list[Node]:
    """What each living node of the cluster has; one without CPUs, as many a head, runs no trial."""
    nodes = []
    for has in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        kind = "head" if "node:__internal_head__" in has else "node"
        nodes.append(Node(has.get("CPU", 0.0), has.get("GPU", 0.0), kind))
    return nodes


def to_come(sweep: Sweep) -> list[Node]:
    """What the cluster's autoscaler may start; none where Ray was started for the sweep alone."""
    return nodes_to_come() if sweep.address else []


def largest_extent(alive: Sequence[Node], coming: Sequence[Node]) -> list[Node]:
    """The nodes that the cluster has when its autoscaler has added all that it may.

    Some of ``coming`` may be among ``alive`` already: they are not counted twice.
    """
    extent = [*(node for node in alive if node.kind == "head"), *coming]
    has_more = any(
        sum(getattr(node, name) for node in extent) > sum(getattr(node, name) for node in alive)
        for name in ("cpus", "gpus")
    )
    return extent if has_more else list(alive)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what we do when we are told to end: Ray would have it end at once, without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:  # of Ray's handler, while Ray starts
        raise KeyboardInterrupt from end
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def connect(sweep: Sweep) -> Resources:
    """Start or join Ray; say what each trial gets.

    On a cluster that adds nodes on demand, trials are counted that fit when all have come; where
    not even one fits yet, ``waits_for`` says what is missing.

    Raises:
        InputError: the cluster can not be joined, or not even one trial will ever fit into it.
    """
    global _watch
    was_running = ray.is_initialized()
    alive = start(sweep)
    if not sweep.address and not was_running:
        _watch = RayWatch(_node(), f"thaw resume {sweep.reference}")
    extent = largest_extent(alive, to_come(sweep))
    resources = resources_of(sweep, extent)
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if n_fitting(alive, cpus, gpus) >= resources.n_workers:
        return resources
    return replace(resources, waits_for=describe_nodes(extent))


def _node() -> Any:
    """What this process knows of the Ray on its machine; no public name leads to it."""
    return ray._private.worker._global_node


def session_folder() -> Path:
    """Where Ray keeps its logs on this machine, which it leaves there."""
    return Path(_node().get_session_dir_path())


def check_alive() -> None:
    """Do nothing while Ray is well.

    Raises:
        RunFailed: the Ray that was started here has ended.
    """
    if _watch is not None:
        _watch.check()


def disconnect() -> None:
    """Stop Ray if it was started here, else leave the cluster.

    Python collects nothing meanwhile. Ray takes its core worker apart first, and forgets it later;
    between the two, a reference of Ray's that is collected in another thread ends this process
    with status 1 and without a word.
    """
    global _watch
    if _watch is not None:
        _watch.expect_end()
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_collecting:
            gc.enable()
    if _watch is not None:
        _watch.close()
        _watch = None
