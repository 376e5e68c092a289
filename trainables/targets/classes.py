"""What every classification task shares: its loss and how its predictions are counted."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from trainables.config import TrainingConfig
from trainables.metrics import ClassificationMeter
from trainables.prepared import DataInfo


def loss(logits: Tensor, targets: Tensor, config: TrainingConfig) -> Tensor:
    """Cross-entropy with ``config.label_smoothing``, summed over the samples.

    Summed, not averaged: a batch cut into unequal micro-batches then gives the same gradient.

    Args:
        logits: [n, classes]; half precision is widened first.
        targets: class indices [n].
    """
    return cross_entropy(
        logits.float(), targets, reduction="sum", label_smoothing=config.label_smoothing
    )


def meter(info: DataInfo) -> ClassificationMeter:
    """A meter that counts over the classes of ``info``."""
    return ClassificationMeter(len(info.classes))
