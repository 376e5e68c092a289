"""Starts Ray, or joins it. Without Ray Tune, which is imported meanwhile: it takes seconds."""

from __future__ import annotations

import logging

import ray

from trainables.errors import InputError, RunFailed
from tuning.addresses import resolve_address
from tuning.resources import Resources
from tuning.sweep import Sweep, resources_of


def start(sweep: Sweep) -> tuple[float, float]:
    """Start Ray on this machine, or join the cluster at the sweep's address; its CPUs and GPUs.

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
            ray.init(
                address=sweep.address or "local",
                include_dashboard=None if sweep.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
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
    available = ray.cluster_resources()
    return available.get("CPU", 0.0), available.get("GPU", 0.0)


def connect(sweep: Sweep) -> Resources:
    """Start or join Ray; say what each trial gets.

    Raises:
        InputError: the cluster can not be joined, or not even one trial fits into it.
    """
    return resources_of(sweep, *start(sweep))


def disconnect() -> None:
    """Stop Ray if it was started here, else leave the cluster."""
    ray.shutdown()
