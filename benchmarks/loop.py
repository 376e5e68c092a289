"""Benchmark 5: samples per second of ``fit`` against a bare PyTorch loop.

Same model, batch size, optimiser and number of threads; the bare loop holds its data in memory as
the model takes it, normalised already, and does nothing but step. Both take turns, an epoch each,
in one process, so that a machine that becomes slower meanwhile slows both; the ratio is the median
over pairs of epochs. What ``fit`` does after an epoch (validation, metrics) is left out, what it
does at the beginning of one is not.

On a GPU the bare loop is in bf16, with images in channels_last.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from figures import Figure
from texts import texts, write_csv
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import check_config
from trainables.task import Task, TrainingRun
from trainables.tasks.table import task_row
from trainables.training.loop import fit

_GOAL = 0.97
_BATCH_SIZE = 32
_SHARED = {"batch_size": _BATCH_SIZE, "epochs": 1000, "schedule": "constant", "weight_decay": 0.0}
_N_PAIRS = 3


@dataclass(frozen=True)
class _Case:
    """What is trained: a task, and its configuration."""

    task: str
    settings: dict[str, Any]


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Time both loops ``repeats`` times, in every case and with 1 and 2 threads."""
    devices = [("cpu", 1), ("cpu", 2), *([("cuda", 1)] if torch.cuda.is_available() else [])]
    figures = []
    with tempfile.TemporaryDirectory(prefix="thaw-benchmark-") as folder:
        for name, case in _cases(Path(folder), quick).items():
            for device, n_threads in devices:
                run = TrainingRun(Path(folder), device=device, n_threads=n_threads)
                rounds = [_round(case, run, 1 if quick else _N_PAIRS) for _ in range(repeats)]
                ratios, rates = ([*column] for column in zip(*rounds, strict=True))
                where = f"{n_threads} threads" if device == "cpu" else torch.cuda.get_device_name()
                note = f"bare: {statistics.median(rates):.1f} samples/s"
                figures.append(
                    Figure(
                        f"{name}, {where}: fit / bare loop, samples per second",
                        statistics.median(ratios),
                        "x",
                        _GOAL,
                        "more",
                        "quick: shows only that it runs" if quick else note,
                        ratios,
                    )
                )
    return figures


def _cases(folder: Path, quick: bool) -> dict[str, _Case]:
    # All texts are longer than 64 tokens, so that every batch is as wide as any other.
    found = texts(seed=0)
    rows = [(" ".join(text for text, _ in found[i : i + 12]), "ab"[i % 2]) for i in range(700)]
    write_csv(folder / "texts.csv", rows[:160] if quick else rows)
    image = {"data": "digits", "model": "resnet18", "image_size": 64, "stem": "standard"}
    image |= {
        "val_fraction": 0.02,
        "test_fraction": 0.94 if quick else 0.84,
    }  # ~70 or ~250 to train
    text = {"data": str(folder / "texts.csv"), "model": "scratch:bert-mini", "max_tokens": 64}
    return {
        "ResNet-18 at 64 pixels": _Case("image_classification", image),
        "BERT-mini with 64 tokens": _Case("text_classification", text),
    }


def _round(case: _Case, run: TrainingRun, n_pairs: int) -> tuple[float, float]:
    """``fit``'s samples per second as a share of the bare loop's, and the bare loop's own."""
    row = task_row(case.task)
    on_gpu = run.device == "cuda"
    precision = {"precision": "bf16"} if on_gpu else {}
    config = check_config({**_SHARED, **case.settings, **precision}, row.config_type)
    torch.set_num_threads(run.n_threads)
    ours = _fit_rates(row.load(), config, run)
    bare = _bare_rates(row.load(), config, run)
    next(ours), next(bare)  # allocations, choice of kernels
    pairs = []
    for number in range(n_pairs):
        if number % 2:
            theirs = next(bare)
            pairs.append((next(ours), theirs))
        else:
            pairs.append((next(ours), next(bare)))
    ours.close()
    return (
        statistics.median(our / their for our, their in pairs),
        statistics.median(their for _, their in pairs),
    )


def _fit_rates(task: Task, config: Any, run: TrainingRun) -> Iterator[float]:
    for report in fit(task, config, run):
        yield report.metrics["samples_per_second"]


def _bare_rates(task: Task, config: Any, run: TrainingRun) -> Iterator[float]:
    """Samples per second of each epoch of the loop that one would write for this model alone."""
    data = task.prepare(config, run.cache_folder)
    split = data.splits["train"]
    raw = {name: torch.from_numpy(array.copy()) for name, array in split.arrays.items()}
    inputs = task.transform(raw, config, data.info, None)
    inputs = {name: tensor.contiguous().to(run.device) for name, tensor in inputs.items()}
    targets = inputs.pop("label")
    torch.manual_seed(config.seed)
    model = task.build(config, data.info, data.assets, True).to(run.device)
    if run.device == "cuda" and "image" in inputs:
        model = model.to(memory_format=torch.channels_last)
        inputs = {"image": inputs["image"].to(memory_format=torch.channels_last)}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    model.train()
    while True:
        started = time.perf_counter()
        for batch in torch.randperm(len(targets), device=run.device).split(config.batch_size):
            _bare_step(
                task, model, optimizer, {n: x[batch] for n, x in inputs.items()}, targets[batch]
            )
        if run.device == "cuda":
            torch.cuda.synchronize()
        yield len(targets) / (time.perf_counter() - started)


def _bare_step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: dict[str, Tensor],
    targets: Tensor,
) -> None:
    device = targets.device.type
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        loss = F.cross_entropy(task.forward(model, inputs), targets)
    loss.backward()
    optimizer.step()
