"""The task of image classification: its inputs, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trainables.prepared import DataInfo
from trainables.tasks.image_classification import ImageClassificationConfig, load

TASK = load()


def config(**values: Any) -> ImageClassificationConfig:
    return ImageClassificationConfig(**{"data": "digits", "image_size": 32, **values})


def details(channels: int) -> DataInfo:
    values = {
        "channels": channels,
        "image_size": 8,
        "mean": [0.25] * channels,
        "std": [0.5] * channels,
    }
    return DataInfo(("a", "b"), (), values)


def test_inputs_are_normalised_and_greyscale_goes_to_all_channels() -> None:
    raw = {
        "image": torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8)
    }
    image = TASK.transform(raw, config(), details(1), None)["image"]
    assert image.shape == (2, 3, 8, 8)
    assert image.dtype == torch.float32
    assert torch.equal(image[0], torch.full((3, 8, 8), -0.5))
    assert torch.equal(image[1], torch.full((3, 8, 8), 1.5))


def test_only_a_generator_augments() -> None:
    raw = {"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)}
    for policy in ("digits", "photo"):
        settings = config(augmentation=policy)
        plain = TASK.transform(raw, settings, details(3), None)["image"]
        assert torch.equal(plain, TASK.transform(raw, config(), details(3), None)["image"])
        changed = TASK.transform(raw, settings, details(3), torch.Generator().manual_seed(0))
        assert changed["image"].shape == plain.shape
        assert not torch.equal(changed["image"], plain)


def test_digits_are_learned_from_files_to_loss(tmp_path: Path) -> None:
    settings = config(image_size=8, model="resnet18")
    data = TASK.prepare(settings, tmp_path)
    torch.manual_seed(0)
    model = TASK.build(settings, data.info, data.assets, True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    split = data.splits["train"]
    raw = {name: torch.tensor(array[:24]) for name, array in split.arrays.items()}
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        inputs = TASK.transform(raw, settings, data.info, None)
        loss = TASK.loss(TASK.forward(model, inputs), inputs, settings) / 24
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    meter = TASK.meter(data.info)
    meter.update(TASK.forward(model, inputs), inputs)
    assert meter.compute(0.0)["accuracy"] > 0.8
