"""Your own texts and labels in a CSV, TSV, JSONL or Parquet file.

thaw sweep text_csv --set data=FILE --set text_column=NAME --set label_column=NAME
"""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="text_csv",
    task="text_classification",
    description="your own texts: a CSV, TSV, JSONL or Parquet file (--set data=FILE)",
    domains={
        # BERT's authors try 2e-5 to 5e-5 (arXiv:1810.04805, A.3); small or partly frozen models
        # want more: Banking77's best with 4 of 8 blocks of MiniLM frozen was 2.4e-3.
        "learning_rate": Float(1e-5, 3e-3, log=True),
        "batch_size": Choice(16, 32, 64),
        "freezing": Choice("none", "head", "first_k", "gradual", "lp_ft", "lora"),
        "frozen_blocks": Int(1, 4, when={"freezing": "first_k"}),
        "thaw_every_epochs": Int(1, 2, when={"freezing": "gradual"}),
        "head_epochs": Int(1, 3, when={"freezing": "lp_ft"}),
        # LoRA wants about ten times the learning rate of training all (arXiv:2602.04998).
        # Usual are ranks of 4 to 64, and an alpha of twice the rank.
        "lora_rank": Int(4, 64, log=True, when={"freezing": "lora"}),
        "lora_scale": Float(0.5, 4.0, log=True, when={"freezing": "lora"}),  # alpha / rank
        "layer_decay": Float(0.5, 1.0, when={"freezing": ("none", "first_k", "gradual", "lp_ft")}),
        "weight_decay": Float(1e-3, 1e-1, log=True),
        "label_smoothing": Choice(0.0, 0.1),
    },
    fixed={
        "model": "scratch:bert-mini",  # --set model=NAME downloads from the hub; a folder works too
        "epochs": 6,
        "max_tokens": 64,
        "warmup_fraction": 0.1,
        "gradient_clip_norm": 1.0,
    },
    starting_points=[
        {
            "learning_rate": 5e-4,
            "batch_size": 32,
            "freezing": "none",
            "layer_decay": 1.0,
            "weight_decay": 1e-2,
            "label_smoothing": 0.0,
        },
        {"learning_rate": 5e-5, "batch_size": 32, "freezing": "none", "layer_decay": 1.0},
    ],
)
