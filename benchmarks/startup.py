"""How soon `thaw --help` and a validation error answer, beside what importing the libraries costs.

    uv run python benchmarks/startup.py

Each figure is the median of five runs of a fresh process, all in the same run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")
N_RUNS = 5
COMMANDS = {
    "thaw --help": [THAW, "--help"],
    "thaw sweep --help": [THAW, "sweep", "--help"],
    "thaw sweep digit (unknown space)": [THAW, "sweep", "digit"],
    "thaw sweep digits --set epochs=-1": [THAW, "sweep", "digits", "--set", "epochs=-1"],
    "thaw sweep digits --set model=resnet81": [THAW, "sweep", "digits", "--set", "model=resnet81"],
    "thaw sweep digits --dry-run": [THAW, "sweep", "digits", "--dry-run"],
    "import ray, torch, torchvision, mlflow": [
        sys.executable,
        "-c",
        "import ray, torch, torchvision, mlflow",
    ],
}


def seconds(command: list[str], folder: str) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            name: statistics.median(seconds(command, folder) for _ in range(N_RUNS))
            for name, command in COMMANDS.items()
        }
    *_, imports = figures.values()
    print("| command | seconds (median of 5) | of the imports alone |\n| --- | --- | --- |")
    for name, figure in figures.items():
        print(f"| `{name}` | {figure:.2f} | {figure / imports:.2f} |")


if __name__ == "__main__":
    main()
