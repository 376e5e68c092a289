"""Starts Ray, or joins it. Without Ray Tune, which is imported meanwhile: it takes seconds."""

from __future__ import annotations

import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray._private.node import Node as RayNode

from trainables.errors import InputError, RunFailed
from tuning.engines.autoscaling import nodes_to_come
from tuning.engines.ray_watch import RayWatch, dead_processes
from tuning.record.resources import Node, Resources, describe_nodes, n_fitting
from tuning.record.sweep import Sweep, resources_of
from tuning.storage.addresses import resolve_address
from tuning.user_code.sent_files import runtime_env

# Ray waits 30 s for its node manager, which on a busy machine takes longer, and fails. What it has
# started goes on starting, and can be joined.
_SECONDS_FOR_A_SLOW_START = 300.0

_slow: RayNode | None = None  # a Ray of our own that was joined: it does not end when it is left
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
    global _slow
    try:
        _init(address="local", include_dashboard=False)
    except Exception as error:  # a plain one where Ray takes too long
        _slow = _half_started(error)
        if _slow is None or not _join_slow(_slow):
            disconnect()
            raise RunFailed(
                f"Ray did not start on this machine: {error} Nothing was lost; give the same "
                "command again when the machine has less to do, or look into "
                "/tmp/ray/session_latest/logs"
            ) from error


def _half_started(error: Exception) -> RayNode | None:
    """The Ray that took too long to start: only the frames that failed know it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, RayNode):
            return node
    return None


def _join_slow(node: RayNode) -> bool:
    """Join a Ray when it has started; False if it does not."""
    until = time.monotonic() + _SECONDS_FOR_A_SLOW_START
    while time.monotonic() < until and not dead_processes(node):
        try:
            _init(address=node.gcs_address)
            return True
        except Exception:
            ray.shutdown()
    return False


def _init(**options: Any) -> None:
    with _own_sigterm():
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=runtime_env(),
            **options,
        )


def alive_nodes() -> list[Node]:
    """What each living node of the cluster has; one without CPUs, as many a head, runs no trial."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [
        Node(
            each.get("CPU", 0.0),
            each.get("GPU", 0.0),
            "head" if "node:__internal_head__" in each else "node",
        )
        for each in resources
    ]


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
        node = _slow or ray._private.worker._global_node  # no public name leads to it
        _watch = RayWatch(node, f"thaw resume {sweep.reference}")
    extent = largest_extent(alive, to_come(sweep))
    resources = resources_of(sweep, extent)
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if n_fitting(alive, cpus, gpus) >= resources.n_workers:
        return resources
    return replace(resources, waits_for=describe_nodes(extent))


def check_alive() -> None:
    """Do nothing while Ray is well.

    Raises:
        RunFailed: the Ray that was started here has ended.
    """
    if _watch is not None:
        _watch.check()


def disconnect() -> None:
    """Stop Ray if it was started here, else leave the cluster."""
    global _slow, _watch
    if _watch is not None:
        _watch.expect_end()
    ray.shutdown()
    if _slow is not None:
        _slow.kill_all_processes(check_alive=False)
        _slow = None
    if _watch is not None:
        _watch.close()
        _watch = None
