"""How many trials run at once, computed from what there is, so that nothing can wait for ever.

A worker is one process of a trial; most trials have one. All workers of a sweep get the same, and a
worker can not be divided between nodes. So as many workers fit as fit on each node by itself, in
whatever order Ray places them, and a sweep never asks for more of them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trainables.errors import InputError

# Beyond it, or one per node, a sampler that learns proposes too many points blindly (assumed).
_DEFAULT_CONCURRENCY = 4
# With gpus_per_trial = "auto". Processes take turns on a GPU, so that more hardly help (assumed).
_MOST_TRIALS_PER_GPU = 8
_ROUNDING = 1e-9

Gpus = float | Literal["auto"]


@dataclass(frozen=True)
class Node:
    """What one node of a cluster has, or would have."""

    cpus: float
    gpus: float = 0.0
    kind: str = "node"  # its type's name, where it has one

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.kind} with {self.cpus:g} CPUs{gpus}"

    def n_fitting(self, cpus: float, gpus: float) -> int:
        """How many workers fit that get so much each."""
        shares = [self.cpus / cpus] if cpus else []
        shares += [self.gpus / gpus] if gpus else []
        return int(min(shares) + _ROUNDING) if shares else 0


def n_fitting(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """How many workers fit on all nodes together, none of them divided between two."""
    return sum(node.n_fitting(cpus, gpus) for node in nodes)


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Such as ``2 × node with 8 CPUs and 1 GPUs``."""
    counts = Counter(nodes)
    return ", ".join(f"{n} × {node}" for node, n in counts.items()) or "no node"


@dataclass(frozen=True)
class Slot:
    """What one worker gets."""

    cpus: float
    gpus: float
    trials_per_gpu: int = 1  # that share its GPU, if it was packed

    @property
    def n_threads(self) -> int:
        """CPU threads torch may use in one worker, so that workers do not fight over cores."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Resources:
    """What one worker gets, and how many trials run at once."""

    cpus_per_trial: float  # this and the next of each of its workers
    gpus_per_trial: float
    concurrency: int
    n_gpus: float = 0.0
    most_per_gpu: int = 1  # more where trials are packed by the memory that they need
    cpus_are_shared: bool = True  # by the trials on a GPU; else each gets cpus_per_trial
    n_workers: int = 1  # of each trial
    most_at_once: int | None = None  # trials, as the user wants it
    waits_for: str = ""  # the nodes that have to come first, where no trial fits yet

    @property
    def n_at_first(self) -> int:
        """How many trials run at once before any is packed."""
        return (
            self.concurrency if self.most_per_gpu == 1 else min(self.concurrency, int(self.n_gpus))
        )

    def slot(self, trials_per_gpu: int = 1) -> Slot:
        """What a trial gets where so many share a GPU."""
        if trials_per_gpu == 1:
            return Slot(self.cpus_per_trial, self.gpus_per_trial)
        # Ray counts in ten-thousandths: seven times 1/7, rounded to that, would be more than one.
        gpus = math.floor(10_000 / trials_per_gpu) / 10_000
        cpus = self.cpus_per_trial
        if self.cpus_are_shared:
            cpus = float(max(1, int(cpus / trials_per_gpu)))
        return Slot(cpus, gpus, trials_per_gpu)


def this_machine() -> tuple[int, int]:
    """CPUs and NVIDIA GPUs that this process may use on this machine, found without torch."""
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    n_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        n_gpus = min(n_gpus, sum(each.strip() not in ("", "-1") for each in visible.split(",")))
    return n_cpus, n_gpus


def share_out(
    nodes: Sequence[Node],
    *,
    n_workers: int = 1,
    cpus_per_trial: float | None = None,
    gpus_per_trial: Gpus | None = None,
    concurrency: int | None = None,
) -> Resources:
    """Divide what ``nodes`` have among trials of ``n_workers`` workers; what is None is chosen.

    With GPUs a worker gets a whole one and its share of the CPUs; without, four trials, or one per
    node if those are more, share the CPUs. With "auto" it begins so, and trials may come to share a
    GPU and its CPUs.

    Args:
        cpus_per_trial: of each worker, as is ``gpus_per_trial``.
        concurrency: trials at once, at most.

    Raises:
        InputError: not even one trial fits; the message says what it needs and what there is.
    """
    has_gpus = any(node.gpus for node in nodes)
    gpus = gpus_per_trial if isinstance(gpus_per_trial, (int, float)) else float(has_gpus)
    cpus = cpus_per_trial or _cpus_of_a_worker(nodes, gpus, n_workers, concurrency)
    if n_fitting(nodes, cpus, gpus) < n_workers:
        raise InputError(_too_much(nodes, cpus, gpus, n_workers))
    most = 1
    if gpus_per_trial == "auto" and has_gpus:
        most = _most_per_gpu(nodes, cpus_per_trial, concurrency)
    resources = Resources(
        cpus,
        gpus,
        concurrency=0,
        most_per_gpu=most,
        cpus_are_shared=cpus_per_trial is None,
        n_workers=n_workers,
        most_at_once=concurrency,
    )
    return fit_to(resources, nodes)


def fit_to(resources: Resources, nodes: Sequence[Node]) -> Resources:
    """The same for each worker, and as many trials at once as ``nodes`` hold; perhaps none."""
    n_slots = n_fitting(nodes, resources.cpus_per_trial, resources.gpus_per_trial)
    at_once = n_slots // resources.n_workers * resources.most_per_gpu
    if resources.most_at_once is not None:
        at_once = min(at_once, resources.most_at_once)
    return replace(resources, concurrency=at_once, n_gpus=sum(node.gpus for node in nodes))


def _cpus_of_a_worker(
    nodes: Sequence[Node], gpus: float, n_workers: int, concurrency: int | None
) -> float:
    """The most whole CPUs with which as many trials run at once as there should be."""
    at_most = n_fitting(nodes, 1.0, gpus) // n_workers
    wanted = at_most if gpus else max(_DEFAULT_CONCURRENCY, sum(node.cpus >= 1 for node in nodes))
    wanted = max(1, min(wanted if concurrency is None else concurrency, at_most))
    largest = max((int(node.cpus) for node in nodes), default=1)
    for cpus in range(largest, 1, -1):
        if n_fitting(nodes, cpus, gpus) >= wanted * n_workers:
            return float(cpus)
    return 1.0


def _most_per_gpu(
    nodes: Sequence[Node], cpus_per_trial: float | None, concurrency: int | None
) -> int:
    with_gpus = [node for node in nodes if node.gpus]
    most = int(min(node.cpus / node.gpus for node in with_gpus) / (cpus_per_trial or 1) + _ROUNDING)
    if concurrency is not None:
        most = min(most, math.ceil(concurrency / sum(node.gpus for node in with_gpus)))
    return max(1, min(most, _MOST_TRIALS_PER_GPU))


def _too_much(nodes: Sequence[Node], cpus: float, gpus: float, n_workers: int) -> str:
    who = "one trial needs" if n_workers == 1 else f"--workers = {n_workers}: each worker needs"
    largest = n_fitting(nodes, cpus, gpus)
    instead = f"the largest that fits is --workers {largest}" if largest else "not even one fits"
    return (
        f"{who} {cpus:g} CPUs and {gpus:g} GPUs on one node, and there is {describe_nodes(nodes)}; "
        f"{instead}; lower --cpus-per-trial or --gpus-per-trial"
    )
