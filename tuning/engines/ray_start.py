"""Starts Ray, or joins it. Without Ray Tune, which is imported meanwhile: it takes seconds."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import ray

from trainables.errors import InputError, RunFailed
from tuning.engines.autoscaling import nodes_to_come
from tuning.record.resources import Node, Resources, describe_nodes, n_fitting
from tuning.record.sweep import Sweep, resources_of
from tuning.storage.addresses import resolve_address
from tuning.user_code.sent_files import runtime_env

# Of a Ray of our own: its control store never comes back, so that waiting for it (for a minute, as
# Ray does for the sake of stores that are restarted) would only delay the word that it is gone.
_SYSTEM_CONFIG = {"gcs_rpc_server_reconnect_timeout_s": 10}


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
        if sweep.address:
            resolve_address(sweep.address)
        try:
            with _own_sigterm():
                ray.init(
                    address=sweep.address or "local",
                    include_dashboard=None if sweep.address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env=runtime_env(),
                    _system_config=None if sweep.address else _SYSTEM_CONFIG,
                )
        except Exception as error:  # ray raises it plain where its node takes more than 30 s
            if not sweep.address:
                raise RunFailed(
                    f"Ray did not start on this machine: {error} Nothing was lost; try again, or "
                    "look into /tmp/ray/session_latest/logs"
                ) from error
            raise InputError(
                f"--address = {sweep.address!r}: that Ray cluster can not be joined: {error}"
            ) from error
    return alive_nodes()


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
    """Keep what we do when we are told to end: Ray would have it end at once, with code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
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
    alive = start(sweep)
    extent = largest_extent(alive, to_come(sweep))
    resources = resources_of(sweep, extent)
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if n_fitting(alive, cpus, gpus) >= resources.n_workers:
        return resources
    return replace(resources, waits_for=describe_nodes(extent))


def disconnect() -> None:
    """Stop Ray if it was started here, else leave the cluster."""
    ray.shutdown()
