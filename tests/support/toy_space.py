"""A user's own file: a space and a training function in closed form, so that tests take no time.

``value`` after epoch e is quality × (1 - 2^-e), and quality is 1 at x = 0.3, less elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search_spaces.domains import Choice, Float, Int, SearchSpace
from trainables.errors import DamagedCheckpoint, Diverged
from trainables.task import EpochReport, TrainingRun

SPACE = SearchSpace(
    name="toy",
    domains={
        "x": Float(0.0, 1.0),
        "kind": Choice("plain", "scaled"),
        "scale": Int(1, 3, when={"kind": "scaled"}),
    },
    fixed={
        "epochs": 4,
        "seconds": 0.0,
        "fault": "none",
        "fault_beyond": 0.5,
        "checkpoint_bytes": 0,
        "gpu_share": 0.0,  # of the memory of a GPU that is not there, as the training reports it
    },
    starting_points=[{"x": 0.5, "kind": "plain"}],
)


def _fail(fault: str, epoch: int) -> None:
    if fault == "raise":
        raise RuntimeError(f"something broke in epoch {epoch}")
    if fault == "diverge":
        raise Diverged(f"the loss is nan in epoch {epoch}")
    if fault == "hang":
        time.sleep(3600)
    if fault == "die":
        os.kill(os.getpid(), 9)


def train(config: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    """Improve with every epoch; ``fault`` says what goes wrong in trials with x beyond a bound."""
    done = 0
    if run.resume_from is not None:
        try:
            done = json.loads((run.resume_from / "state.json").read_text())["epoch"]
        except ValueError as error:
            raise DamagedCheckpoint(f"{run.resume_from} is damaged") from error
    quality = 1 - (config["x"] - 0.3) ** 2
    for epoch in range(done + 1, config["epochs"] + 1):
        time.sleep(config["seconds"])
        if (
            config["fault"] not in ("none", "full")
            and epoch == 2
            and config["x"] > config["fault_beyond"]
        ):
            marker = Path(run.cache_folder) / "died"
            if config["fault"] != "die" or not marker.exists():
                if config["fault"] == "die":
                    marker.parent.mkdir(parents=True, exist_ok=True)
                    marker.touch()
                _fail(config["fault"], epoch)
        metrics = {"value": quality * (1 - 0.5**epoch), "x": config["x"], "pid": float(os.getpid())}
        if config["gpu_share"]:
            metrics |= {"gpu_memory_bytes": 1e11, "peak_memory_bytes": 1e11 * config["gpu_share"]}

        def save(folder: Path, epoch: int = epoch) -> None:
            if config["fault"] == "full":
                raise OSError(28, "No space left on device")
            (folder / "weights").write_bytes(bytes(config["checkpoint_bytes"]))
            (folder / "state.json").write_text(json.dumps({"epoch": epoch}))

        yield EpochReport(epoch, metrics, save)
