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

N_TASKS, N_SPACES, N_STRATEGIES = 6, 8, 8

# What a strategy needs, or what shows more of it than its defaults do, in models of four blocks.
STRATEGY_SETTINGS: dict[str, dict[str, Any]] = {
    "first_k": {"frozen_blocks": 2},
    "gradual": {"thaw_every_epochs": 1},
    "lp_ft": {"head_epochs": 1},
    "only_k": {"trained_block": 1},
    "lora": {"lora_rank": 2, "lora_from_block": 2},
}


# The small stem of ResNet costs 16 times as much.
SMALL_NETWORK = {"model": "resnet18", "image_size": 16, "stem": "standard"}


def image_example(folder: Path) -> Example:
    generator = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(24):
            pixels = generator.normal(level, 20, (16, 16)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    settings = {"data": str(folder), **SMALL_NETWORK, "augmentation": "photo"}
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


def number_text_example(folder: Path) -> Example:
    folder.mkdir(parents=True)
    generator = random.Random(0)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "number"])
        for row in range(60):
            stars = generator.randint(0, 5)
            words = ["star"] * stars + ["dust"] * (5 - stars)
            generator.shuffle(words)
            writer.writerow([" ".join([*words, str(row)]), 100 + 10 * stars])
    settings = {"data": str(folder / "data.csv"), "model": "scratch:bert-tiny", "max_tokens": 16}
    return Example(settings, ["star star dust star star", "dust"])


def number_image_example(folder: Path) -> Example:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["path,number"]
    for number in range(48):
        level = int(generator.integers(20, 220))
        pixels = generator.normal(level, 10, (16, 16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{level}")
    (folder / "levels.csv").write_text("\n".join(lines))
    settings = {"data": str(folder / "levels.csv"), **SMALL_NETWORK}
    return Example(settings, [(folder / "0.png").read_bytes(), str(folder / "1.png")])


def tags_example(folder: Path) -> Example:
    folder.mkdir(parents=True)
    generator = random.Random(0)
    lines = []
    for row in range(60):
        name = generator.choice(["Ada", "Ben", "Cleo"])
        place = generator.choice(["Rome", "New York"])
        words = [(name, "B-person"), ("saw", "O"), (str(row), "O"), ("in", "O")]
        first, *rest = place.split()
        words += [(first, "B-place"), *((word, "I-place") for word in rest), (".", "O")]
        lines += [f"{word} {tag}" for word, tag in words] + [""]
    (folder / "data.conll").write_text("\n".join(lines))
    settings = {"data": str(folder / "data.conll"), "model": "scratch:bert-tiny", "max_tokens": 16}
    return Example(settings, ["Ada saw 3 in New York .", "Rome"])


def documents_example(folder: Path) -> Example:
    folder.mkdir(parents=True)
    generator = random.Random(0)
    lines = []
    for _ in range(400):
        animal, sound = generator.choice([("cat", "meow"), ("dog", "woof"), ("cow", "moo")])
        lines.append(f"the {animal} says {sound} and the {animal} sleeps")
    (folder / "data.txt").write_text("\n".join(lines))
    settings = {
        **{"data": str(folder / "data.txt"), "model": "scratch:gpt2-tiny", "max_tokens": 32},
        "answer_tokens": 4,
    }
    return Example(settings, ["the cat says", "the dog"])


EXAMPLES: dict[str, Callable[[Path], Example]] = {
    "image_classification": image_example,
    "image_regression": number_image_example,
    "text_classification": text_example,
    "text_regression": number_text_example,
    "token_classification": tags_example,
    "causal_language_modeling": documents_example,
}
