"""Your own texts with a number each.

thaw sweep text_regression --set data=FILE --set text_column=NAME --set number_column=NAME
"""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="text_regression",
    task="text_regression",
    description="a number for each of your own texts, in a table (--set data=FILE)",
    domains={
        # The ranges of text_csv.py: the encoder is the same, and so is what of it is worth keeping.
        "learning_rate": Float(1e-5, 3e-3, log=True),
        "batch_size": Choice(16, 32, 64),
        "freezing": Choice("none", "head", "first_k", "lp_ft"),
        "frozen_blocks": Int(1, 4, when={"freezing": "first_k"}),
        "head_epochs": Int(1, 3, when={"freezing": "lp_ft"}),
        "weight_decay": Float(1e-3, 1e-1, log=True),
    },
    fixed={
        "model": "scratch:bert-mini",  # --set model=NAME downloads from the hub; a folder works too
        "epochs": 6,
        "max_tokens": 64,
        "warmup_fraction": 0.1,
        "gradient_clip_norm": 1.0,
    },
    starting_points=[
        {"learning_rate": 5e-4, "batch_size": 32, "freezing": "none", "weight_decay": 1e-2},
        {"learning_rate": 5e-5, "batch_size": 32, "freezing": "none"},
    ],
)
