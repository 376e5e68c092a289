"""Runs a command and watches its process tree: how many processes, how much memory, how long.

Linux only: it reads /proc. Memory is PSS, which shares a page among the processes that map it; a
sum of RSS would count torch's libraries once per process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SECONDS_BETWEEN_SAMPLES = 1.0
# The kernel walks all pages of a process for it, and stops its page faults meanwhile: once a second
# it made trainings on two cores 5 % slower.
_SAMPLES_PER_MEMORY_SAMPLE = 10
_PROC = Path("/proc")


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    started: float  # time.monotonic(), the same clock in every process of the machine
    seconds: float
    peak_processes: int  # in the tree, the command's own among them
    peak_pss_mib: float  # summed over the tree


def run_measured(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 1800.0,
) -> Ran:
    """Run ``command`` in ``folder`` to its end, sampling its process tree once a second.

    Its memory is measured every ten seconds.

    Args:
        environment: added to this process's own.

    Raises:
        RuntimeError: it failed, or ran past its time; the message ends with what it printed.
    """
    peak_processes, peak_pss, n_samples, seen = 0, 0.0, 0, {}
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - started < timeout_seconds:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_BETWEEN_SAMPLES)
                    break
                tree = dict(process_tree(process.pid))
                seen.update(tree)
                peak_processes = max(peak_processes, len(tree))
                if n_samples % _SAMPLES_PER_MEMORY_SAMPLE == _SAMPLES_PER_MEMORY_SAMPLE - 1:
                    peak_pss = max(peak_pss, sum(map(_pss_mib, tree)))
                n_samples += 1
            seconds = time.monotonic() - started
        finally:
            _end(process, seen)
        output.seek(0)
        tail = output.read().decode(errors="replace")[-4000:]
    if seconds >= timeout_seconds:
        raise RuntimeError(f"{command[:3]} ran past {timeout_seconds:g} s:\n{tail}")
    if process.returncode != 0:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}:\n{tail}")
    return Ran(started, seconds, peak_processes, peak_pss)


def other_rays() -> list[int]:
    """Process ids of Ray's node managers on this machine: each a Ray that takes time from us."""
    return [pid for pid, _ in _processes() if _name(pid) == "raylet"]


def _end(process: subprocess.Popen[bytes], seen: Mapping[int, int]) -> None:
    """Kill what is left of the tree. A process id that another process took since is left alone."""
    if process.poll() is None:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10  # Ray's own processes follow their driver by themselves
    while left := [pid for pid, born in seen.items() if _stat(pid)[1] == born]:
        if time.monotonic() > deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.1)


def process_tree(root: int) -> Iterator[tuple[int, int]]:
    """(process id, time of birth in clock ticks) of ``root`` and everything below it."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid, (parent, born) in _processes():
        children.setdefault(parent, []).append((pid, born))
    level = [(root, _stat(root)[1])]
    while level:
        yield from level
        level = [child for pid, _ in level for child in children.get(pid, [])]


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name), _stat(int(entry.name))


def _stat(pid: int) -> tuple[int, int]:
    """Parent and time of birth; zeros if the process has ended (proc(5), /proc/pid/stat)."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return (0, 0) if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))


def _name(pid: int) -> str:
    with suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text().strip()
    return ""


def _pss_mib(pid: int) -> float:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
