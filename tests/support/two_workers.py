"""Trains a toy model in one of two processes; `test_parallel.py` starts both.

The model has neither batch norm nor dropout, and nothing is augmented: then two workers compute
what one does, but for the order of sums.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import detector
import torch
import torch.distributed as dist
from detector import DetectorConfig
from torch import nn
from toy import TASK, TIMES, ToyConfig

from trainables.config import TrainingConfig
from trainables.errors import DamagedCheckpoint, Diverged, OutOfMemory
from trainables.task import TrainingRun
from trainables.training import evaluation
from trainables.training.loop import fit


def build(config: ToyConfig, info: Any, assets: Path, load_weights: bool) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Linear(2, 16), nn.Tanh()),
        nn.Sequential(nn.Linear(16, 15), nn.LayerNorm(15), nn.Tanh()),
        nn.Linear(15, len(info.classes)),
    )


PLAIN = replace(TASK, build=build, transform=lambda raw, config, info, generator: raw)

# name -> changes of the configuration
DETECTOR = "a detector that computes its own loss, over ragged boxes"
CASES: dict[str, dict[str, Any]] = {
    DETECTOR: {},
    "all": {},
    "sgd, clipped": {"optimizer": "sgd", "learning_rate": 0.3, "gradient_clip_norm": 0.05},
    "head": {"freezing": "head"},
    "thawed by and by": {"freezing": "gradual", "thaw_every_epochs": 1, "layer_decay": 0.8},
    "head first": {"freezing": "lp_ft", "head_epochs": 2},
    "norms and biases": {"freezing": "norm_and_bias"},
    "adapters": {"freezing": "lora", "lora_rank": 2},
    # Shares of 9 and 8 samples, in as many micro-batches.
    "micro-batches": {"batch_size": 17, "micro_batch_size": 4, "gradient_clip_norm": 0.5},
    "micro-batches of one": {"batch_size": 5, "micro_batch_size": 1, "epochs": 1},
}


def config_of(case: str) -> TrainingConfig:
    if case == DETECTOR:
        return DetectorConfig(epochs=3, batch_size=16, learning_rate=0.01, micro_batch_size=3)
    # 101 samples: with 16 a rest of five is left, with 17 of 16, with 5 of one.
    return ToyConfig(**{"epochs": 3, "batch_size": 16, "learning_rate": 0.01, **CASES[case]})


def curve(
    case: str, run: TrainingRun, save_after: int | None = None, folder: Path | None = None
) -> list[dict[str, float]]:
    metrics = []
    task = detector.TASK if case == DETECTOR else PLAIN
    for report in fit(task, config_of(case), run):
        metrics.append({name: v for name, v in report.metrics.items() if name not in TIMES})
        if report.epoch == save_after and folder is not None:
            if run.rank == 0:
                folder.mkdir(parents=True)
            report.save(folder)
    return metrics


def main(rank: int, folder: Path) -> None:
    torch.manual_seed(rank)  # what a process has drawn before must not matter
    evaluation._EVALUATION_BATCH = 15  # of 40 samples: two batches for one, one for the other
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    found: dict[str, Any] = {}
    for strategy in ("ddp", "fsdp"):
        run = TrainingRun(folder / "cache", rank=rank, world_size=2, strategy=strategy)
        for case in CASES:
            found[f"{strategy} {case}"] = curve(case, run)
        saved = folder / strategy
        for case in ("all", "thawed by and by", "adapters"):
            curve(case, run, save_after=1, folder=saved / case)
            dist.barrier()
            for other in ("ddp", "fsdp"):
                resumed = replace(run, strategy=other, resume_from=saved / case)
                found[f"{strategy} {case}, resumed by {other}"] = curve(case, resumed)
            resumed = replace(run, resume_from=folder / "alone" / case)
            found[f"alone {case}, resumed by {strategy}"] = curve(case, resumed)
        found[f"{strategy} failures"] = failures(run, folder)
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def failures(run: TrainingRun, folder: Path) -> dict[str, str]:
    """What goes wrong in one of them, or in both: neither waits for the other for ever."""
    found = {}
    try:
        list(fit(PLAIN, ToyConfig(epochs=9, optimizer="sgd", learning_rate=1e30), run))
    except Diverged as error:
        found["diverged"] = str(error)
    dist.barrier()
    folder = folder / ("alone" if run.rank == 1 else "nothing") / "all"
    try:
        list(fit(PLAIN, config_of("all"), replace(run, resume_from=folder)))
    except DamagedCheckpoint as error:
        found["damaged"] = str(error)
    dist.barrier()

    def forward_without_memory(model: nn.Module, inputs: Any) -> Any:
        raise torch.OutOfMemoryError("pretended")

    try:
        list(fit(replace(PLAIN, forward=forward_without_memory), config_of("all"), run))
    except OutOfMemory as error:
        found["memory"] = str(error)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
