"""What one training may leave behind in a process, put back before the next one starts."""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import os
import random
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# What a training may leave before its process is given up. Caches of torch and of the allocator
# grow for a few trainings, and then no more (measured over 200).
_FILES_LEFT, _BYTES_LEFT = 32, 1 << 30
_DEVICES = ("cpu", "cuda")


class ProcessState:
    """The state of this process as it is now, to come back to."""

    def __init__(self, *, is_shared: bool = False) -> None:
        """Remember the state.

        Args:
            is_shared: others run in this process, too, so only the settings of torch and the random
                states are put back.
        """
        self._is_shared = is_shared
        if not is_shared:
            _freeze_memory()
        self._environment = dict(os.environ)
        self._folder = Path.cwd()
        self._python_random = random.getstate()
        self._numpy_random = np.random.get_state()
        self._restore_torch = _torch_settings()
        self._n_files = _n_open_files()
        self._n_bytes = _resident_bytes()
        self._threads = set(threading.enumerate())

    def restore(self) -> str | None:
        """Put everything back, and free memory.

        Returns:
            What can not be put back, so that the process should end; None if it is clean.
        """
        random.setstate(self._python_random)
        np.random.set_state(self._numpy_random)
        self._restore_torch()
        free_memory()
        if self._is_shared:
            return None
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        for name, value in self._environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        os.chdir(self._folder)
        return self._left_behind()

    def _left_behind(self) -> str | None:
        n_files = _n_open_files() - self._n_files
        if n_files > _FILES_LEFT:
            return f"{n_files} files are still open"
        n_bytes = _resident_bytes() - self._n_bytes
        if n_bytes > _BYTES_LEFT:
            return f"{n_bytes:,} bytes of memory are still held"
        threads = [
            thread.name
            for thread in set(threading.enumerate()) - self._threads
            if thread.is_alive() and not thread.daemon
        ]
        return f"thread {threads[0]!r} still runs" if threads else None


def _freeze_memory() -> None:
    """Let the garbage collector pass over what is alive now.

    Looking through all of torch and Ray for garbage after each trial would take 0.2 s.
    """
    gc.collect()
    gc.freeze()
    _unfreeze_at_exit()


@functools.cache
def _unfreeze_at_exit() -> None:
    atexit.register(gc.unfreeze)  # or else triton finds its types alive, and complains


def free_memory() -> None:
    """Give memory that is no longer used back to the system and to the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _torch_settings() -> Callable[[], None]:
    """A function that puts torch's process-wide settings back as they are now."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    settings = _settings(torch)
    values = [get() for get, _ in settings]
    random_state = torch.get_rng_state()
    gpu_random_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        torch.set_default_device(None)
        for (get, put), value in zip(settings, values, strict=True):
            # Some setters import much of torch, even to set what is set already.
            if _differs(get, value):
                put(value)
        torch.set_rng_state(random_state)
        if gpu_random_states is not None:
            torch.cuda.set_rng_state_all(gpu_random_states)

    return restore


def _settings(torch: Any) -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """What tells each setting, and what sets it."""
    backends = torch.backends
    flags = [
        *((backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
        *((owner, "allow_tf32") for owner in (backends.cudnn, backends.cuda.matmul)),
        (backends.mkldnn, "enabled"),
    ]
    by_device = (
        (torch.is_autocast_enabled, torch.set_autocast_enabled),
        (torch.get_autocast_dtype, torch.set_autocast_dtype),
    )
    return [
        *((partial(getattr, *flag), partial(setattr, *flag)) for flag in flags),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        *((partial(get, kind), partial(put, kind)) for get, put in by_device for kind in _DEVICES),
    ]


def _differs(get: Callable[[], Any], value: Any) -> bool:
    try:
        return bool(get() != value)
    except RuntimeError:  # torch refuses to tell a precision set through two interfaces
        return True


def _n_open_files() -> int:
    """Open file descriptors; 0 where the system does not tell."""
    with suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0


def _resident_bytes() -> int:
    """Memory of this process alone: mapped files, which others share, do not count."""
    with suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024
    return 0
