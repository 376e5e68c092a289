"""Process-wide settings of torch, set for a training and put back after it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; differs when any of them does."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed Python, NumPy and torch from ``parts`` inside the block; put their states back."""
    seed = mix_seed(*parts)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Compute in ``precision`` (fp32, bf16 or fp16) inside the block, where torch finds it safe."""
    dtype = _AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextmanager
def n_threads(n: int) -> Iterator[None]:
    """Let torch use ``n`` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux; writing 5 resets the peak below (proc(5))


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring peak memory anew, where the system lets us."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Where that is not allowed, the peak is that of the process so far.
        with suppress(OSError):
            _CLEAR_REFS.write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """Peak since the reset: allocated on the GPU, or resident in the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
