"""Starts Ray, or joins it. Without Ray Tune, which is imported meanwhile: it takes seconds."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from trainables.errors import InputError, RunFailed
from tuning.addresses import resolve_address
from tuning.resources import Resources
from tuning.sent_files import runtime_env
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
            with _own_sigterm():
                ray.init(
                    address=sweep.address or "local",
                    include_dashboard=None if sweep.address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env=runtime_env(),
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

    Raises:
        InputError: the cluster can not be joined, or not even one trial fits into it.
    """
    return resources_of(sweep, *start(sweep))


def disconnect() -> None:
    """Stop Ray if it was started here, else leave the cluster."""
    ray.shutdown()
