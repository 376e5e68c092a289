"""How many trials run at once, computed from what there is, so that nothing can wait for ever."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainables.errors import InputError

_DEFAULT_CONCURRENCY = (
    4  # beyond it a sampler that learns proposes too many points blindly (assumed)
)
# With gpus_per_trial = "auto". Processes take turns on a GPU, so that more hardly help (assumed).
_MOST_TRIALS_PER_GPU = 8

Gpus = float | Literal["auto"]


@dataclass(frozen=True)
class Slot:
    """What one trial gets."""

    cpus: float
    gpus: float
    trials_per_gpu: int = 1  # that share its GPU, if it was packed

    @property
    def n_threads(self) -> int:
        """CPU threads torch may use in one trial, so that trials do not fight over cores."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Resources:
    """What one trial gets, and how many run at once."""

    cpus_per_trial: float
    gpus_per_trial: float
    concurrency: int
    n_gpus: float = 0.0
    most_per_gpu: int = 1  # more where trials are packed by the memory that they need
    cpus_are_shared: bool = True  # by the trials on a GPU; else each gets cpus_per_trial

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
    n_cpus = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    n_gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        n_gpus = min(
            n_gpus,
            len([device for device in visible.split(",") if device.strip() not in ("", "-1")]),
        )
    return n_cpus, n_gpus


def share_out(
    n_cpus: float,
    n_gpus: float,
    *,
    cpus_per_trial: float | None = None,
    gpus_per_trial: Gpus | None = None,
    concurrency: int | None = None,
) -> Resources:
    """Divide ``n_cpus`` and ``n_gpus`` among trials; what is None is chosen.

    With GPUs a trial gets a whole one and its share of the CPUs; without, at most four trials share
    the CPUs. With "auto" it begins so, and trials may come to share a GPU and its CPUs.

    Raises:
        InputError: not even one trial fits; the message says what it needs and what there is.
    """
    packed = gpus_per_trial == "auto" and n_gpus > 0
    if gpus_per_trial is None or gpus_per_trial == "auto":
        gpus = 1.0 if n_gpus else 0.0
    else:
        gpus = gpus_per_trial
    slots_by_gpu = int(n_gpus / gpus + 1e-9) if gpus else None
    if cpus_per_trial is None:
        wanted = slots_by_gpu or concurrency or min(int(n_cpus), _DEFAULT_CONCURRENCY)
        cpus = float(max(1, int(n_cpus) // max(1, min(wanted, concurrency or wanted))))
    else:
        cpus = cpus_per_trial
    slots_by_cpu = int(n_cpus / cpus + 1e-9)
    slots = slots_by_cpu if slots_by_gpu is None else min(slots_by_cpu, slots_by_gpu)
    if slots < 1:
        raise InputError(
            f"one trial needs {cpus:g} CPUs and {gpus:g} GPUs, and there are {n_cpus:g} CPUs and "
            f"{n_gpus:g} GPUs; lower --cpus-per-trial or --gpus-per-trial"
        )
    if not packed:
        return Resources(cpus, gpus, min(concurrency or slots, slots), n_gpus)
    cpus_per_gpu = n_cpus / n_gpus
    most = int(cpus_per_gpu / (cpus_per_trial or 1) + 1e-9)
    if concurrency is not None:
        most = min(most, math.ceil(concurrency / n_gpus))
    most = max(1, min(most, _MOST_TRIALS_PER_GPU))
    at_once = min(concurrency or slots * most, slots * most)
    return Resources(cpus, gpus, at_once, n_gpus, most, cpus_are_shared=cpus_per_trial is None)
