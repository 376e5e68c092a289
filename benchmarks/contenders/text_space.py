"""A user's search space: a small pretrained BERT on files of texts, all freezing strategies."""

import json
from pathlib import Path

from search_spaces.domains import Choice, Float, Int, SearchSpace

CONFIGURATIONS = Path(__file__).parents[1] / "configurations.json"

SPACE = SearchSpace(
    name="benchmark_texts",
    task="text_classification",
    domains={
        "learning_rate": Float(5e-5, 1e-3, log=True),
        "batch_size": Choice(16, 32, 64),
        "freezing": Choice("none", "head", "first_k", "gradual"),
        "frozen_blocks": Int(1, 7, when={"freezing": "first_k"}),
        "thaw_every_epochs": Int(1, 2, when={"freezing": "gradual"}),
    },
    fixed={
        "data": "",
        "model": "",
        "max_tokens": 32,
        "epochs": 2,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "gradient_clip_norm": 1.0,
    },
    starting_points=json.loads(CONFIGURATIONS.read_text())["text"],
)
