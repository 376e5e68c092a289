"""Every benchmark with one command: a table, and a JSON file of the same figures.

    uv run python benchmarks/speed.py [NAME …] [--repeats 3] [--quick] [--json FILE]

Run it on a quiet machine; it says what disturbs. ``--quick`` takes minutes instead of hours and
shows only that everything runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from figures import Figure
from processes import other_rays

BENCHMARKS = ("overhead", "efficiency", "prefix", "sweep", "loop", "scale")  # modules beside this
_LIBRARIES = (
    "thaw",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "ray",
    "optuna",
    "mlflow",
)
_HIGH_LOAD = 0.25  # runnable processes per core, mean of the last minute


def main() -> None:
    arguments = _arguments()
    disturbances = find_disturbances()
    for disturbance in disturbances:
        print(f"warning: {disturbance}; the figures will be worse than they are", file=sys.stderr)
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "repeats": arguments.repeats,
        "quick": arguments.quick,
        "disturbances": disturbances,
        "figures": {},
        "errors": {},
    }
    rows = []
    for name in arguments.names:
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            figures = importlib.import_module(name).measure(arguments.repeats, arguments.quick)
        except Exception as error:  # one that fails must not cost the others' hours
            traceback.print_exc()
            document["errors"][name] = f"{type(error).__name__}: {error}"
            continue
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        document["figures"][name] = [
            {**asdict(figure), "repeats": list(figure.repeats), "reached": figure.reached}
            for figure in figures
        ]
        rows += [(name, figure) for figure in figures]
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(table(rows))
    for name, message in document["errors"].items():
        print(f"error: {name}: {message.splitlines()[0]}", file=sys.stderr)
    sys.exit(1 if document["errors"] else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few and tiny: shows that it runs")
    parser.add_argument("--json", type=Path, default=Path("speed.json"), metavar="FILE")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmark {unknown[0]!r}; valid: {', '.join(BENCHMARKS)}")
    if arguments.repeats < 1:
        parser.error(f"--repeats {arguments.repeats}: must be at least 1")
    arguments.names = arguments.names or BENCHMARKS
    return arguments


def find_disturbances() -> list[str]:
    """What else takes time on this machine now, in words."""
    found = []
    if rays := other_rays():
        found.append(f"another Ray runs on this machine (raylet, process {rays[0]})")
    load, n_cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > _HIGH_LOAD * n_cores:
        found.append(f"the load average of the last minute is {load:.2f} on {n_cores} cores")
    return found


def describe_machine() -> dict[str, Any]:
    """The machine that the figures are of."""
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "system": platform.platform(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpu": _gpu(),
    }


def _gpu() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ", ".join(names.stdout.split("\n")[:-1]) or None


def describe_versions() -> dict[str, str]:
    """Of Python and of each library that is installed."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def table(rows: list[tuple[str, Figure]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| benchmark | figure | value | goal | reached | note |", "| --- " * 6 + "|"]
    for name, figure in rows:
        goal = ""
        if figure.goal is not None:
            goal = f"{'≥' if figure.better == 'more' else '≤'} {figure.goal:g} {figure.unit}"
        reached = {None: "", True: "yes", False: "**no**"}[figure.reached]
        value = f"{figure.value:.4g} {figure.unit}"
        lines.append(f"| {name} | {figure.name} | {value} | {goal} | {reached} | {figure.note} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
