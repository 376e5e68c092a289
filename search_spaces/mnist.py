"""MNIST with a ResNet-18; or Fashion-MNIST, or any folder of such IDX files (``--set data=…``)."""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="mnist",
    task="image_classification",
    description="70,000 handwritten digits, 28×28 pixels, ResNet-18; other IDX files too",
    domains={
        # A widely read guide trains this model with Adam at 1e-3 and batch 32: inside.
        "learning_rate": Float(1e-4, 1e-2, log=True),
        "batch_size": Choice(32, 64, 128, 256),
        "freezing": Choice("none", "first_k", "gradual"),
        "frozen_blocks": Int(1, 3, when={"freezing": "first_k"}),
        "thaw_every_epochs": Int(1, 2, when={"freezing": "gradual"}),
        "layer_decay": Float(0.6, 1.0),
        "weight_decay": Float(1e-4, 1e-1, log=True),
        "label_smoothing": Choice(0.0, 0.1),
    },
    fixed={
        "data": "mnist",
        "model": "resnet18",
        "weights": "none",
        "image_size": 28,
        "epochs": 10,
        "warmup_fraction": 0.1,
        "augmentation": "digits",
        "augmentation_strength": 0.3,
    },
    starting_points=[
        {"learning_rate": 1e-3, "batch_size": 32, "freezing": "none", "layer_decay": 1.0},
    ],
)
