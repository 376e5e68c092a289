"""The search spaces of the learning curves made here."""

from __future__ import annotations

from search_spaces.domains import Choice, Float, Int, SearchSpace

# The seven hyperparameters of LCBench (arXiv:2006.13799, table 1), for networks that are small
# enough for one core; its networks have up to 1,024 units and 5 layers.
LCBENCH_MLP = SearchSpace(
    name="lcbench_mlp",
    domains={
        "batch_size": Int(16, 256, log=True),  # LCBench: to 512, on more data
        "learning_rate": Float(1e-4, 1e-1, log=True),
        "momentum": Float(0.1, 0.99),
        "weight_decay": Float(1e-5, 1e-1, log=True),
        "n_layers": Int(1, 4),
        "n_units": Int(8, 128, log=True),
        "dropout": Float(0.0, 0.8),
    },
)

_OPTIMIZATION = {
    "optimizer": Choice("sgd", "adamw"),
    "momentum": Float(0.0, 0.98, when={"optimizer": "sgd"}),
    "learning_rate": Float(1e-4, 3e-1, log=True),  # too high for the one, right for the other
    "weight_decay": Float(1e-6, 1e-1, log=True),
    "batch_size": Int(32, 256, log=True),
    "schedule": Choice("constant", "cosine", "linear"),
    "label_smoothing": Float(0.0, 0.2),
}

DIGITS_MLP = SearchSpace(
    name="digits_mlp",
    domains={
        **_OPTIMIZATION,
        "n_layers": Int(1, 4),
        "n_units": Int(8, 128, log=True),
        "activation": Choice("relu", "tanh", "gelu"),
        "dropout": Float(0.0, 0.6),
    },
)

DIGITS_CNN = SearchSpace(
    name="digits_cnn",
    domains={
        **_OPTIMIZATION,
        "n_convolutions": Int(1, 3),  # each halves the 8 × 8 pixels
        "n_channels": Int(2, 16, log=True),  # of the first; each further one has twice as many
        "dropout": Float(0.0, 0.6),
    },
)

FASHION_HEAD = SearchSpace(
    name="fashion_head",
    domains={
        **_OPTIMIZATION,
        "head": Choice("linear", "mlp"),
        "n_layers": Int(1, 3, when={"head": "mlp"}),
        "n_units": Int(16, 128, log=True, when={"head": "mlp"}),
        "dropout": Float(0.0, 0.6, when={"head": "mlp"}),
    },
)
