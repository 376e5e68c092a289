"""A user's own training whose result tells with which settings every one of its epochs was trained.

The weight after an epoch is ``width`` times the sum of all rates so far, each times its epoch's
number, and ``value`` rises with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search_spaces.domains import Choice, Float, Int, SearchSpace
from trainables.errors import DamagedCheckpoint, Diverged
from trainables.task import EpochReport, TrainingRun

SPACE = SearchSpace(
    name="population",
    domains={
        "rate": Float(0.01, 2.0, log=True),
        "width": Choice(1, 2),
        "kind": Choice("plain", "scaled"),
        "scale": Int(1, 3, when={"kind": "scaled"}),
    },
    fixed={"epochs": 8, "diverge_beyond": 100.0},
    starting_points=[{"rate": 0.05, "width": 1, "kind": "plain"}],
)
MUTABLE = ("rate", "kind", "scale")


def value_of(weight: float) -> float:
    return weight / (weight + 12)


def train(config: Mapping[str, Any], run: TrainingRun) -> Iterator[EpochReport]:
    done, weight = 0, 0.0
    if run.resume_from is not None:
        try:
            state = json.loads((run.resume_from / "state.json").read_text())
        except ValueError as error:
            raise DamagedCheckpoint(f"{run.resume_from} is damaged") from error
        assert state["width"] == config["width"]  # the weights are of that width
        done, weight = state["epoch"], state["weight"]
    for epoch in range(done + 1, config["epochs"] + 1):
        if config["rate"] > config["diverge_beyond"]:
            raise Diverged("the rate is too high")
        weight += config["width"] * config["rate"] * epoch

        def save(folder: Path, epoch: int = epoch, weight: float = weight) -> None:
            state = {"epoch": epoch, "weight": weight, "width": config["width"]}
            (folder / "state.json").write_text(json.dumps(state))

        metrics = {"value": value_of(weight), "rate": config["rate"], "weight": weight}
        yield EpochReport(epoch, metrics, save)
