"""An example of each built-in task, small enough for a test."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

N_TASKS, N_SPACES, N_STRATEGIES = 2, 4, 8

# What a strategy needs, or what shows more of it than its defaults do, in models of four blocks.
STRATEGY_SETTINGS: dict[str, dict[str, Any]] = {
    "first_k": {"frozen_blocks": 2},
    "gradual": {"thaw_every_epochs": 1},
    "lp_ft": {"head_epochs": 1},
    "only_k": {"trained_block": 1},
    "lora": {"lora_rank": 2, "lora_from_block": 2},
}


TIMES = ("seconds", "samples_per_second", "peak_memory_bytes")


def image_example(folder: Path) -> Example:
    generator = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(24):
            pixels = generator.normal(level, 20, (16, 16)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    settings = {"data": str(folder), "model": "resnet18", "image_size": 16, "augmentation": "photo"}
    return Example(
        settings, [(folder / "dark" / "0.png").read_bytes(), str(folder / "light/1.png")]
    )


@dataclass(frozen=True)
class Example:
    """A small instance of a task: its settings, and items to predict."""

    settings: dict[str, Any]
    items: list[bytes | str]


def text_example(folder: Path) -> Example:
    folder.mkdir(parents=True)
    generator = random.Random(0)
    words = {"good": ["fine", "great", "lovely"], "bad": ["awful", "poor", "sad"]}
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(60):
            label = ("good", "bad")[number % 2]
            chosen = generator.choices(words[label] + ["the", "film", "was"], k=6)
            writer.writerow([" ".join([*chosen, str(number)]), label])
    settings = {"data": str(folder / "data.csv"), "model": "scratch:bert-tiny", "max_tokens": 16}
    return Example(settings, ["a great and lovely film", "awful"])


EXAMPLES: dict[str, Callable[[Path], Example]] = {
    "image_classification": image_example,
    "text_classification": text_example,
}
