"""scikit-learn's 1,797 scanned 8×8 digits with a ResNet-18: real data that needs no download."""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="digits",
    task="image_classification",
    description="handwritten digits that ship with scikit-learn, 8×8 pixels, ResNet-18",
    domains={
        # AdamW's usual 1e-3 in the middle; beyond 1e-2 training from scratch diverges.
        "learning_rate": Float(1e-4, 1e-2, log=True),
        # 1,257 training images: with 128 an epoch has ten steps left.
        "batch_size": Choice(16, 32, 64, 128),
        # From scratch, frozen blocks are random features: cheap, and a useful lower bound.
        "freezing": Choice("none", "first_k", "gradual", "head"),
        "frozen_blocks": Int(1, 2, when={"freezing": "first_k"}),
        "thaw_every_epochs": Int(1, 2, when={"freezing": "gradual"}),
        "layer_decay": Float(0.7, 1.0, when={"freezing": ("none", "first_k", "gradual")}),
        "weight_decay": Float(1e-4, 1e-1, log=True),
        "label_smoothing": Choice(0.0, 0.1),
    },
    fixed={
        "data": "digits",
        "model": "resnet18",
        "weights": "none",  # --set weights=default downloads ImageNet weights and freezes those
        "image_size": 8,
        "epochs": 6,
        "warmup_fraction": 0.1,
        "augmentation": "digits",
        "augmentation_strength": 0.3,
    },
    starting_points=[
        {
            "learning_rate": 1e-3,
            "batch_size": 32,
            "freezing": "none",
            "layer_decay": 1.0,
            "weight_decay": 1e-2,
            "label_smoothing": 0.0,
        },
    ],
)
