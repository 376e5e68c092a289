"""A user's own training of several workers, which goes wrong in one of them as ``fault`` says.

Every epoch takes part in a collective operation, where those that are well wait for the others.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search_spaces.domains import Choice, SearchSpace
from trainables.task import EpochReport, TrainingRun

SPACE = SearchSpace(
    name="gang",
    domains={"fault": Choice("none", "raise", "die", "hang", "no more"), "x": Choice(0, 1, 2, 3)},
    fixed={"epochs": 3, "seconds": 0.0},
)


def fail_once(fault: str, marker: Path) -> None:
    if fault == "raise":
        raise RuntimeError("something broke in one worker")
    if fault == "hang":
        time.sleep(3600)
    if fault == "die" and not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        os.kill(os.getpid(), 9)


def train(config: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    import ray
    import torch
    import torch.distributed as dist

    done = 0
    if run.resume_from is not None:
        done = json.loads((run.resume_from / "state.json").read_text())["epoch"]
    node = int(ray.get_runtime_context().get_node_id()[:12], 16)
    for epoch in range(done + 1, config["epochs"] + 1):
        time.sleep(config["seconds"])
        if run.rank == run.world_size - 1 and epoch == 2:
            fail_once(config["fault"], run.cache_folder / "died")
        of_all = [torch.zeros(2, dtype=torch.float64) for _ in range(run.world_size)]
        mine = torch.tensor([os.getpid(), node], dtype=torch.float64)
        if run.world_size > 1:
            dist.all_gather(of_all, mine)
        else:
            of_all = [mine]
        metrics = {"value": 1 - 0.5**epoch, "resumed_from": float(done)}
        for rank, (pid, node_number) in enumerate(of_all):
            metrics |= {f"pid{rank}": float(pid), f"node{rank}": float(node_number)}

        def save(folder: Path, epoch: int = epoch) -> None:
            assert run.rank == 0
            (folder / "state.json").write_text(json.dumps({"epoch": epoch}))

        yield EpochReport(epoch, metrics, save)
