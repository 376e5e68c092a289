"""What the programs of this folder share: a report with times, commands, and waiting."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import HOME, ROOT

CLUSTER = HOME / "cluster.yaml"

_UV = Path(shutil.which("uv") or "uv").parent
_UV_CACHE = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")

# What simulated machines have: Python and uv, packages from a cache as there is no network, and
# little power.
BASHRC = f"""
export UV_OFFLINE=1 UV_LINK_MODE=symlink UV_CACHE_DIR={_UV_CACHE} UV_PYTHON_PREFERENCE=only-system
export PATH={Path(sys.base_prefix) / "bin"}:{_UV}:$PATH
export RAY_agent_register_timeout_ms=120000
export THAW_SECONDS_WITHOUT_RAY=60
"""

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Report what was seen, and when."""
    print(f"{time.monotonic() - _BEGAN:6.0f} s  {text}", flush=True)


def call(*command: str, seconds: float = 300, check: bool = True, **environment: str) -> str:
    """What a command of the user's own machine prints; stdout and stderr together."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, timeout=seconds, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip
    if check and result.returncode != 0:
        shown = shlex.join(command)
        raise AssertionError(f"{shown} ended with {result.returncode}:\n{result.stdout[-6000:]}")
    return result.stdout


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something; its value."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(1)
    return value


@contextmanager
def dashboard() -> Iterator[str]:
    """The address of the dashboard of the cluster in ``CLUSTER``, through a tunnel."""
    sys.path.insert(0, str(ROOT))
    from tuning.clusters.cluster_file import read_cluster_file
    from tuning.clusters.tunnel import open_tunnel

    with open_tunnel(read_cluster_file(CLUSTER)) as tunnel:
        yield tunnel.url
