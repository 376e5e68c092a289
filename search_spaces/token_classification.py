"""Your own words with tags, such as named entities: CoNLL, JSONL or Parquet files.

thaw sweep token_classification --set data=FOLDER --set model=FOLDER_OR_HUB_NAME
"""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="token_classification",
    task="token_classification",
    description="tags for the words of your own sentences (--set data=PATH)",
    domains={
        # BERT's authors try 2e-5 to 5e-5 (arXiv:1810.04805, A.3); small encoders want more.
        "learning_rate": Float(1e-5, 3e-3, log=True),
        "batch_size": Choice(8, 16, 32),
        "freezing": Choice("none", "first_k", "lp_ft"),  # a head alone sees too little of a word
        "frozen_blocks": Int(1, 3, when={"freezing": "first_k"}),
        "head_epochs": Int(1, 2, when={"freezing": "lp_ft"}),
        "layer_decay": Float(0.7, 1.0),
    },
    fixed={
        "model": "scratch:bert-mini",  # --set model=NAME downloads from the hub; a folder works too
        "epochs": 5,
        "max_tokens": 128,
        "warmup_fraction": 0.1,
        "gradient_clip_norm": 1.0,
    },
    starting_points=[
        {"learning_rate": 5e-4, "batch_size": 16, "freezing": "none", "layer_decay": 1.0},
        {"learning_rate": 5e-5, "batch_size": 16, "freezing": "none", "layer_decay": 1.0},
    ],
)
