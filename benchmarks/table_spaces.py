"""The search spaces of the learning curves made here."""

from __future__ import annotations

from search_spaces.domains import Float, Int, SearchSpace

# The seven hyperparameters of LCBench (arXiv:2006.13799, table 1), for networks that are small
# enough for one core; its networks have up to 1,024 units and 5 layers.
LCBENCH_MLP = SearchSpace(
    name="lcbench_mlp",
    domains={
        "batch_size": Int(16, 256, log=True),  # LCBench: to 512; the data here has 400 to 1,000 rows
        "learning_rate": Float(1e-4, 1e-1, log=True),
        "momentum": Float(0.1, 0.99),
        "weight_decay": Float(1e-5, 1e-1, log=True),
        "n_layers": Int(1, 4),
        "n_units": Int(8, 128, log=True),
        "dropout": Float(0.0, 0.8),
    },
)
