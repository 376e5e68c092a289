"""How many trials run at once, computed from what there is, so that nothing can wait for ever."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from trainables.errors import InputError

_DEFAULT_CONCURRENCY = (
    4  # beyond it a sampler that learns proposes too many points blindly (assumed)
)


@dataclass(frozen=True)
class Resources:
    """What one trial gets, and how many run at once."""

    cpus_per_trial: float
    gpus_per_trial: float
    concurrency: int

    @property
    def n_threads(self) -> int:
        """CPU threads torch may use in one trial, so that trials do not fight over cores."""
        return max(1, int(self.cpus_per_trial))


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
    gpus_per_trial: float | None = None,
    concurrency: int | None = None,
) -> Resources:
    """Divide ``n_cpus`` and ``n_gpus`` among trials; what is None is chosen.

    With GPUs a trial gets a whole one and its share of the CPUs; without, at most four trials share
    the CPUs.

    Raises:
        InputError: not even one trial fits; the message says what it needs and what there is.
    """
    gpus = gpus_per_trial if gpus_per_trial is not None else (1.0 if n_gpus else 0.0)
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
    return Resources(cpus, gpus, min(concurrency or slots, slots))
