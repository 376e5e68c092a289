"""A search space for the simulated cluster: trainings that take time and no processor."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces.domains import Float, SearchSpace
from trainables.task import EpochReport, TrainingRun

SPACE = SearchSpace(
    name="lab",
    domains={"x": Float(0.0, 1.0)},
    fixed={"epochs": 8, "seconds": 4.0},
    starting_points=[{"x": 0.5}],
)


def train(config: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    """Improve with every epoch. ``host`` is the last number of the address of where it runs."""
    done = 0
    if run.resume_from is not None:
        done = json.loads((run.resume_from / "state.json").read_text())["epoch"]
    host = float(socket.gethostbyname(socket.gethostname()).rpartition(".")[2])
    for epoch in range(done + 1, config["epochs"] + 1):
        time.sleep(config["seconds"])
        value = (1 - (config["x"] - 0.3) ** 2) * (1 - 0.5**epoch)
        yield EpochReport(
            epoch,
            {"value": value, "host": host, "resumed_after": float(done)},
            save=lambda folder, epoch=epoch: (folder / "state.json").write_text(
                json.dumps({"epoch": epoch})
            ),
        )
