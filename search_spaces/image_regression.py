"""Your own images with a number each, named by a table.

thaw sweep image_regression --set data=TABLE --set path_column=NAME --set number_column=NAME
"""

from search_spaces.domains import Choice, Float, Int, SearchSpace

SPACE = SearchSpace(
    name="image_regression",
    task="image_regression",
    description="a number for each of your own images, named by a table (--set data=FILE)",
    domains={
        # The ranges of image_folder.py: the network is the same.
        "learning_rate": Float(1e-5, 3e-3, log=True),
        "batch_size": Choice(16, 32, 64),
        "freezing": Choice("none", "head", "first_k", "lp_ft"),
        "frozen_blocks": Int(1, 4, when={"freezing": "first_k"}),
        "head_epochs": Int(1, 6, when={"freezing": "lp_ft"}),
        "weight_decay": Float(1e-4, 1e-1, log=True),
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
            "weight_decay": 1e-2,
            "augmentation_strength": 0.5,
        },
    ],
)
