"""Two workers train as one would, however they share the model, and go on for each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SUPPORT
from hypothesis import given
from hypothesis import strategies as st
from two_workers import CASES, curve

from trainables.task import STRATEGY_NAMES, TrainingRun
from trainables.training import evaluation
from trainables.training.checkpoint import MODEL
from trainables.training.evaluation import _evaluation_batches
from trainables.training.parallel import STRATEGIES
from trainables.training.steps import _pieces

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]
# Of metrics: sums are taken in another order, and errors grow with every step.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What one worker gives, and a folder with its checkpoints after the first epoch."""
    folder = tmp_path_factory.mktemp("two")
    run = TrainingRun(folder / "cache")
    return folder, {
        case: curve(case, run, save_after=1, folder=folder / "alone" / case) for case in CASES
    }


@pytest.fixture(scope="module")
def together(alone: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """What two workers give."""
    folder = alone[0]
    here = SUPPORT
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(here / "two_workers.py")]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=250)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return json.loads((folder / "found.json").read_text())


def assert_alike(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=TOLERANCE)


def test_all_strategies_are_covered():
    assert tuple(STRATEGIES) == STRATEGY_NAMES == ("ddp", "fsdp")


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize("case", CASES)
def test_two_workers_give_what_one_does(alone, together, strategy, case):
    assert_alike(together[f"{strategy} {case}"], alone[1][case])


@pytest.mark.parametrize("case", ["all", "thawed by and by", "adapters"])
@pytest.mark.parametrize("first", ["alone", *STRATEGY_NAMES])
@pytest.mark.parametrize("second", ["alone", *STRATEGY_NAMES])
def test_any_can_go_on_from_a_checkpoint_of_any(alone, together, case, first, second):
    folder, whole = alone
    if second == "alone":
        run = TrainingRun(folder / "cache", resume_from=folder / first / case)
        found = curve(case, run)
    else:
        found = together[f"{first} {case}, resumed by {second}"]
    assert_alike(found, whole[case][1:])


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_checkpoints_look_the_same(alone, together, strategy):
    from safetensors.torch import load_file

    folder, _ = alone
    one, other = (load_file(folder / name / "all" / MODEL) for name in ("alone", strategy))
    assert {name: each.shape for name, each in one.items()} == {
        name: each.shape for name, each in other.items()
    }


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_what_goes_wrong_in_one_is_raised_in_both(together, strategy):
    found = together[f"{strategy} failures"]
    assert "loss is nan in epoch" in found["diverged"] or "loss is inf" in found["diverged"]
    assert "checkpoint.json" in found["damaged"]
    assert "micro-batch of 8 on" in found["memory"]  # half of the batch


@given(
    n=st.integers(1, 40),
    n_workers=st.integers(1, 5),
    micro_batch_size=st.integers(1, 40),
)
def test_pieces_cover_a_batch_once_and_are_as_many_in_all_workers(n, n_workers, micro_batch_size):
    n = max(n, n_workers)
    runs = [TrainingRun(Path(), rank=rank, world_size=n_workers) for rank in range(n_workers)]
    pieces = [_pieces(np.arange(n), run, micro_batch_size) for run in runs]
    assert len({len(each) for each in pieces}) == 1
    counted = [i for each in pieces for piece, weight in each if weight for i in piece]
    assert sorted(counted) == list(range(n))
    assert all(1 <= len(piece) <= micro_batch_size for each in pieces for piece, _ in each)
    assert all(each[-1][1] == 1.0 for each in pieces)  # gradients are shared after the last


@given(n=st.integers(1, 900), n_workers=st.integers(1, 5))
def test_evaluation_covers_a_split_once_and_runs_as_often_in_all_workers(n, n_workers):
    runs = [TrainingRun(Path(), rank=rank, world_size=n_workers) for rank in range(n_workers)]
    batches = [
        list(_evaluation_batches(n, evaluation._EVALUATION_BATCH, run, STRATEGIES["fsdp"]))
        for run in runs
    ]
    assert len({len(each) for each in batches}) == 1
    counted = [i for each in batches for indices, counts in each if counts for i in indices]
    assert sorted(counted) == list(range(n))
    assert all(
        len(indices) <= evaluation._EVALUATION_BATCH for each in batches for indices, _ in each
    )
