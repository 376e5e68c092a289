"""The table of early-stopping schedulers: Optuna's pruners, which decide on the study's curves."""

from __future__ import annotations

from collections.abc import Callable

import optuna

_REDUCTION_FACTOR = 3  # of three trials at a rung, one goes on (ASHA, arXiv:1810.05934, uses 4)


def first_rung(epochs: int) -> int:
    """The epoch before which nothing is stopped: a third of all, rounded up.

    Warm-up and thawing make good configurations start slowly.
    """
    return -(-epochs // 3)


# name -> pruner for trials of at most so many epochs
SCHEDULERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "asha": lambda epochs: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first_rung(epochs), reduction_factor=_REDUCTION_FACTOR
    ),
    "none": lambda epochs: optuna.pruners.NopPruner(),
}
