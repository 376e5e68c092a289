"""What each worker of a gang does: it hosts one trial after another, as it is told."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from tuning.engines.gang_coordinator import BEGIN, END, STEP, Answer
from tuning.hosting.assignment import Assignment, Place
from tuning.hosting.trial_host import TrialHost

_SECONDS_BETWEEN_SIGNS = 1.0
_SECONDS_TO_HEAR = 60.0  # of the exchange: then its process is taken for dead (assumed)


def serve(settings: dict[str, Any]) -> None:
    """Take commands from the exchange until there are no more.

    Args:
        settings: names of the ``exchange`` and the ``gang``, and the ``device``: cpu or cuda.
    """
    import ray

    exchange, gang = ray.get_actor(settings["exchange"]), settings["gang"]
    place = _place(settings["device"])
    rank = place.rank
    group = ray.util.get_current_placement_group()
    if not ray.get(exchange.join.remote(gang, rank, None if group is None else group.id.hex())):
        return
    _end_when_told(exchange, gang, rank)
    host: TrialHost | None = None
    for number in itertools.count():
        command, content = ray.get(exchange.command.remote(gang, number))
        answer: Answer = None
        if command == END:
            return
        if command == BEGIN:
            host = TrialHost(Assignment(**content), owns_process=True, place=place)
        elif host is not None:
            answer = host.step() if command == STEP else host.close()
        ray.get(exchange.answer.remote(gang, rank, number, answer))


def name_network_interface() -> None:
    """Tell gloo, in a worker, which interface has the address by which Ray knows its node."""
    import psutil  # type: ignore[import-untyped]
    import ray

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _place(device: str) -> Place:
    """Which worker this is; with connections to the others that are made already."""
    import torch
    import torch.distributed as dist
    from ray import train
    from ray.train.torch import get_device

    own = str(get_device()) if device == "cuda" else device
    # What the workers need to talk is opened now: a trial that did would seem to leave open files.
    dist.all_reduce(torch.zeros(1, device=own))
    return Place(train.get_context().get_world_rank(), dist.get_world_size(), own, sharing())


def sharing() -> Callable[[Any], Any]:
    """A function that gives every worker what the first one has decided, once all have called it.

    It has connections of its own, so that it never meets what a training sends.
    """
    import torch.distributed as dist

    group: Any = dist.new_group(backend="gloo")

    def share(decision: Any) -> Any:
        decisions = [decision]
        dist.broadcast_object_list(decisions, src=0, group=group)
        dist.barrier(group)
        return decisions[0]

    share(None)
    return share


def _end_when_told(exchange: Any, gang: str, rank: int) -> None:
    """Give signs of life, and end this process when its gang has to, whatever it is doing then.

    A worker that waits for another in a collective operation could not be ended otherwise.
    """
    import ray

    def watch() -> None:
        try:
            while ray.get(exchange.beat.remote(gang, rank), timeout=_SECONDS_TO_HEAR):
                time.sleep(_SECONDS_BETWEEN_SIGNS)
        finally:  # also where the exchange is gone, and with it the driver
            os._exit(1)

    threading.Thread(target=watch, name="signs", daemon=True).start()
