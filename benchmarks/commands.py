"""The command lines of Thaw and of what it is compared with."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CONTENDERS = Path(__file__).parent / "contenders"
_THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")
# One thread for each trial; under uv, Ray's workers use this environment instead of a new one.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
SWEEP_FOLDER = Path("sweeps") / "sweep"  # of Thaw's sweep, below the folder it runs in


def thaw_command(space: str, settings: Mapping[str, Any], n_trials: int, n_slots: int) -> list[str]:
    """``thaw sweep`` with a file below ``contenders/``; Ray and MLflow are on, as by default."""
    options = {
        "--name": SWEEP_FOLDER.name,
        "--trials": n_trials,
        "--concurrency": n_slots,
        "--cpus-per-trial": 1,
        "--scheduler": "none",
    }
    flags = [str(part) for option in options.items() for part in option]
    fixed = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return [_THAW, "sweep", str(_CONTENDERS / space), *flags, *fixed, "--json"]


def script_command(name: str, **told: Any) -> list[str]:
    """A script below ``contenders/``, with what it is told as JSON."""
    return [sys.executable, str(_CONTENDERS / name), json.dumps(told)]
