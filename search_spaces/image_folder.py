"""A folder of class folders of your own images: ``--set data=PATH``."""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="image_folder",
    task="image_classification",
    description="your own images: a folder with one folder per class (--set data=PATH)",
    domains={
        # Fine-tuning wants less than training from scratch; both lie inside.
        "learning_rate": Float(1e-5, 3e-3, log=True),
        "batch_size": Choice(16, 32, 64),
        "freezing": Choice("none", "head", "first_k", "gradual", "lp_ft", "lora"),
        "frozen_blocks": Int(1, 4, when={"freezing": "first_k"}),
        "thaw_every_epochs": Int(1, 3, when={"freezing": "gradual"}),
        "head_epochs": Int(1, 6, when={"freezing": "lp_ft"}),
        # LoRA wants about ten times the learning rate of training all (arXiv:2602.04998).
        # Usual are ranks of 4 to 64, and an alpha of twice the rank.
        "lora_rank": Int(4, 64, log=True, when={"freezing": "lora"}),
        "lora_scale": Float(0.5, 4.0, log=True, when={"freezing": "lora"}),  # alpha / rank
        # Lower blocks hold general features and want smaller steps (ULMFiT, arXiv:1801.06146).
        "layer_decay": Float(0.3, 1.0, when={"freezing": ("none", "first_k", "gradual", "lp_ft")}),
        "weight_decay": Float(1e-4, 1e-1, log=True),
        "label_smoothing": Choice(0.0, 0.1),
        "augmentation_strength": Float(0.0, 1.0, step=0.25),
    },
    fixed={
        "model": "resnet18",
        "weights": "none",  # --set weights=default (downloads ImageNet weights) or a path
        "image_size": 64,
        "epochs": 12,
        "warmup_fraction": 0.1,
        "augmentation": "photo",
    },
    starting_points=[
        {
            "learning_rate": 1e-3,
            "batch_size": 32,
            "freezing": "none",
            "layer_decay": 1.0,
            "weight_decay": 1e-2,
            "label_smoothing": 0.0,
            "augmentation_strength": 0.5,
        },
        {"learning_rate": 1e-3, "batch_size": 32, "freezing": "head"},
    ],
)
