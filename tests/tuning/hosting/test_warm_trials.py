"""Trials that follow one another in one process: nothing of one is left for the next."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples import EXAMPLES
from toy import TIMES

from trainables.task import TrainingRun
from trainables.tasks.table import TASKS
from trainables.training.process_state import ProcessState
from tuning.hosting.assignment import Assignment, EpochResult
from tuning.hosting.trial_host import TrialHost
from tuning.storage.open_store import StoreAddress

DISTURBING = '''
"""A training that leaves everything behind that a training can."""
import os, random
import numpy as np
import torch
from search_spaces.domains import Float, SearchSpace
from trainables.task import EpochReport

SPACE = SearchSpace(name="disturbing", domains={"x": Float(0, 1)})
LEFT = []

def train(config, run):
    value = float(torch.rand(()) + random.random() + np.random.rand()) + torch.get_num_threads()
    value += torch.ones(()).element_size() + len(os.environ) + torch.is_grad_enabled()
    yield EpochReport(1, {"value": value}, lambda folder: None)
    if config["x"] > 0.5:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        torch.set_autocast_enabled("cpu", True)
        torch.set_float32_matmul_precision("medium")
        torch.autograd.set_detect_anomaly(True)
        torch.manual_seed(1); random.seed(1); np.random.seed(1)
        os.environ["THAW_LEFT_BEHIND"] = "1"
        os.environ.pop("HOME", None)
        os.chdir("/")
'''


@pytest.fixture
def assign(tmp_path: Path):
    """Makes assignments of a task's small example, or of a user's file."""
    numbers = iter(range(1000))

    def make(task: str | None, config: dict[str, Any], **changes: Any) -> Assignment:
        number = next(numbers)
        values: dict[str, Any] = {
            "trial": number,
            "config": config,
            "task": task,
            "train_file": None,
            "key": f"trials/{number}",
            "store": StoreAddress(str(tmp_path), str(tmp_path / "cache")),
            "run": TrainingRun(tmp_path / "cache"),
            "metric": "val_loss",
            "mode": "min",
            "save_beyond": -1e9,  # never
            "cpus": 1.0,
            "gpus": 0.0,
            "seconds_between_checkpoints": 1e9,
        }
        return Assignment(**{**values, **changes})

    return make


def run_to_end(assignment: Assignment, **options: Any) -> list[dict[str, float]]:
    host, curve = TrialHost(assignment, **options), []
    while isinstance(result := host.step(), EpochResult):
        curve.append({key: v for key, v in result.metrics.items() if key not in TIMES})
    assert result.error is None
    assert host.close() is None
    return curve


IN_A_FRESH_PROCESS = """
import base64, json, pickle, sys
from tuning.hosting.assignment import EpochResult
from tuning.hosting.trial_host import TrialHost
host = TrialHost(pickle.loads(base64.b64decode(sys.argv[1])), owns_process=True)
curve = []
while isinstance(result := host.step(), EpochResult):
    curve.append(dict(result.metrics))
print(json.dumps(curve))
"""


def run_elsewhere(assignment: Assignment) -> list[dict[str, float]]:
    pickled = base64.b64encode(pickle.dumps(assignment)).decode()
    result = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, pickled],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    curve = json.loads(result.stdout)
    return [{key: v for key, v in metrics.items() if key not in TIMES} for metrics in curve]


@pytest.mark.long
@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_trial_gives_the_same_after_another_and_in_a_fresh_process(task, assign, tmp_path):
    settings = EXAMPLES[task](tmp_path / "data").settings
    a = {**settings, "epochs": 2, "batch_size": 12, "freezing": "gradual", "thaw_every_epochs": 1}
    b = {**settings, "epochs": 1, "batch_size": 7, "freezing": "head", "precision": "bf16"}
    first = run_to_end(assign(task, a), owns_process=True)
    run_to_end(assign(task, b), owns_process=True)
    again = run_to_end(assign(task, a), owns_process=True)
    assert len(first) == 2
    assert first == again == run_elsewhere(assign(task, a))


def test_what_a_training_leaves_behind_is_put_back(assign, tmp_path):
    file = tmp_path / "disturbing.py"
    file.write_text(DISTURBING)
    environment, folder = dict(os.environ), Path.cwd()
    assigned = {"train_file": str(file), "metric": "value"}
    quiet = run_to_end(assign(None, {"x": 0.0}, **assigned), owns_process=True)
    disturbed = run_to_end(assign(None, {"x": 1.0}, **assigned), owns_process=True)
    assert dict(os.environ) == environment
    assert Path.cwd() == folder
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_anomaly_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    # each begins from the same random states, too
    after = run_to_end(assign(None, {"x": 0.0}, **assigned), owns_process=True)
    assert quiet == disturbed == after


def test_a_closed_training_leaves_nothing_either(assign, tmp_path):
    file = tmp_path / "disturbing.py"
    file.write_text(
        DISTURBING.replace("yield EpochReport", "torch.set_grad_enabled(False); yield EpochReport")
    )
    host = TrialHost(assign(None, {"x": 1.0}, train_file=str(file), metric="value"))
    host.step()
    assert not torch.is_grad_enabled()
    host.close()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("left", ["files", "memory", "thread"])
def test_what_can_not_be_put_back_is_said(left, tmp_path):
    state = ProcessState()
    kept: list[Any] = []
    stop = threading.Event()
    try:
        if left == "files":
            kept += [(tmp_path / str(i)).open("w") for i in range(40)]
            expected = "40 files are still open"
        elif left == "memory":
            kept.append(np.ones(150_000_000))  # 1.2 GB
            expected = "bytes of memory are still held"
        else:
            threading.Thread(target=stop.wait, name="busy").start()
            expected = "thread 'busy' still runs"
        found = state.restore()
        assert found is not None
        assert expected in found
    finally:
        stop.set()
        while kept:
            getattr(kept.pop(), "close", lambda: None)()
    time.sleep(0.05)
    assert state.restore() is None


def test_in_a_shared_process_only_settings_are_put_back(monkeypatch):
    state = ProcessState(is_shared=True)
    monkeypatch.setenv("THAW_OF_ANOTHER", "1")
    torch.set_grad_enabled(False)
    assert state.restore() is None
    assert torch.is_grad_enabled()
    assert os.environ["THAW_OF_ANOTHER"] == "1"


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@pytest.mark.long
@pytest.mark.timeout(300)
def test_memory_and_files_do_not_grow_over_200_trials(assign, tmp_path):
    """All tasks and strategies in turn. The first 40 fill the caches of torch and the allocator."""
    examples = {task: make(tmp_path / task).settings for task, make in EXAMPLES.items()}
    strategies = [
        {"freezing": "none"},
        {"freezing": "head"},
        {"freezing": "first_k", "frozen_blocks": 2},
        {"freezing": "gradual", "thaw_every_epochs": 1},
    ]
    examples["image_classification"] |= {"model": "shufflenet_v2_x0_5", "stem": "standard"}
    generator = random.Random(0)
    sizes = []
    for number in range(200):
        task = sorted(examples)[number % len(examples)]
        config = {
            **examples[task],
            **strategies[number // len(examples) % len(strategies)],
            "epochs": 1,
            "batch_size": generator.choice([4, 16, 24]),
            "learning_rate": 1e-3,
        }
        run_to_end(assign(task, config), owns_process=True)
        sizes.append((resident_bytes(), len(os.listdir("/proc/self/fd"))))
    early, late = max(sizes[20:40]), max(sizes[-20:])
    assert late[0] < early[0] + 64e6, [size // 10**6 for size, _ in sizes[::10]]
    assert late[1] <= early[1]


def test_data_is_looked_for_once_in_a_process(assign, tmp_path, monkeypatch):
    settings = EXAMPLES["image_classification"](tmp_path / "data").settings
    task, config = "image_classification", {**settings, "epochs": 1, "freezing": "head"}
    from trainables.config import check_config

    checked = check_config(config, TASKS[task].config_type)
    prepared = TASKS[task].prepare(checked, tmp_path / "cache")
    calls = []

    def counting(*arguments: Any) -> Any:
        calls.append(arguments)
        return row.prepare(*arguments)

    row = TASKS[task]
    counted = replace(row, load=lambda: replace(row.load(), prepare=counting))
    monkeypatch.setitem(TASKS, task, counted)
    known = {"run": TrainingRun(tmp_path / "cache", data_fingerprint=prepared.info.fingerprint)}
    for _ in range(3):
        run_to_end(assign(task, config, **known))
    assert len(calls) == 1
    run_to_end(assign(task, config))  # without knowing what it should be, it looks
    assert len(calls) == 2
    other = TrainingRun(tmp_path / "cache", data_fingerprint="other")
    host = TrialHost(assign(task, config, run=other))
    outcome = host.step()
    assert not isinstance(outcome, EpochResult)
    assert outcome.error is not None
    assert "is not what the sweep began with" in outcome.error
