"""Your own texts, for a model to go on with: text files, or a column of a table.

thaw sweep language_modeling --set data=PATH --set model=FOLDER_OR_HUB_NAME
"""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="language_modeling",
    task="causal_language_modeling",
    description="your own texts, for a model to go on with (--set data=PATH)",
    domains={
        # GPT-3's smallest (125M) took 6e-4 from scratch (arXiv:2005.14165, table 2.1). Smaller
        # models want more, pretrained ones less.
        "learning_rate": Float(2e-5, 5e-3, log=True),
        "batch_size": Choice(8, 16, 32),
        "freezing": Choice("none", "first_k"),
        "frozen_blocks": Int(1, 3, when={"freezing": "first_k"}),
        "weight_decay": Float(1e-3, 1e-1, log=True),
    },
    fixed={
        "model": "scratch:gpt2-mini",  # --set model=NAME downloads from the hub; a folder works too
        "epochs": 4,
        "max_tokens": 128,
        "warmup_fraction": 0.1,
        "gradient_clip_norm": 1.0,
    },
    starting_points=[
        {"learning_rate": 1e-3, "batch_size": 16, "freezing": "none", "weight_decay": 1e-2},
        {"learning_rate": 1e-4, "batch_size": 16, "freezing": "none"},
    ],
)
