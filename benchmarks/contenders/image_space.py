"""A user's search space: a ResNet-18 on a folder of images, all freezing strategies."""

import json
from pathlib import Path

from search_spaces.domains import Choice, Float, Int, SearchSpace

CONFIGURATIONS = Path(__file__).parents[1] / "configurations.json"

SPACE = SearchSpace(
    name="benchmark_images",
    task="image_classification",
    domains={
        "learning_rate": Float(1e-4, 3e-3, log=True),
        "batch_size": Choice(16, 32, 64),
        "freezing": Choice("none", "head", "first_k", "gradual"),
        "frozen_blocks": Int(1, 5, when={"freezing": "first_k"}),
        "thaw_every_epochs": Int(1, 2, when={"freezing": "gradual"}),
    },
    fixed={
        "data": "",
        "weights": "none",
        "model": "resnet18",
        "image_size": 32,
        "stem": "standard",
        "epochs": 3,
        "schedule": "cosine",
        "weight_decay": 0.01,
    },
    starting_points=json.loads(CONFIGURATIONS.read_text())["image"],
)
