"""DEHB behind a pipe: one JSON request a line on standard input, one answer a line on output.

    {"make": {"dimensions": 7, "max_fidelity": 52, "seed": 0}}   a new optimizer
    {"ask": true}                                                -> job, config_id, vector, fidelity
    {"tell": {"job": 3, "fitness": 0.2, "cost": 17.0}}

Runs where only DEHB is installed: see benchmarks/search_dehb.py.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

from dehb import DEHB


class _Server:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._dehb: Any = None
        self._jobs: list[dict[str, Any]] = []

    def make(self, settings: dict[str, Any]) -> dict[str, Any]:
        # Told to write its state at the end only, which never comes here: writing each incumbent
        # takes longer than the search.
        self._dehb = DEHB(
            f=None,
            cs=None,
            min_fidelity=1,
            n_workers=1,
            save_freq="end",
            output_path=self._folder,
            log_level="ERROR",
            **settings,
        )
        self._jobs = []
        return {}

    def ask(self, _: bool) -> dict[str, Any]:
        job = self._dehb.ask()
        self._jobs.append(job)
        return {
            "job": len(self._jobs) - 1,
            "config_id": int(job["config_id"]),
            "vector": [float(share) for share in job["config"]],
            "fidelity": float(job["fidelity"]),
        }

    def tell(self, result: dict[str, Any]) -> dict[str, Any]:
        job = self._jobs[result["job"]]
        self._dehb.tell(job, {"fitness": result["fitness"], "cost": result["cost"]})
        return {}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # DEHB logs to standard output
    with tempfile.TemporaryDirectory() as folder:
        server = _Server(folder)
        for line in sys.stdin:
            ((name, argument),) = json.loads(line).items()
            print(json.dumps(getattr(server, name)(argument)), file=answers, flush=True)


if __name__ == "__main__":
    main()
