"""What an epoch is measured by, and which way is better. Works on tensors, never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Direction = Literal["max", "min"]

METRIC_DIRECTIONS: dict[str, Direction] = {
    "val_accuracy": "max",
    "val_macro_f1": "max",
    "val_loss": "min",
    "train_loss": "min",
    "seconds": "min",
    "samples_per_second": "max",
    "trainable_parameters": "min",
    "peak_memory_bytes": "min",
}
METRIC_ALIASES = {"seconds_per_epoch": "seconds"}  # an epoch report's seconds are of one epoch


class Meter(Protocol):
    """Sums up predictions over batches, in one tensor that can be added over workers."""

    def update(self, logits: Tensor, targets: Tensor) -> None: ...

    def totals(self, device: torch.device) -> Tensor: ...

    def compute(self) -> dict[str, float]: ...

    def confusion(self) -> np.ndarray: ...


class ClassificationMeter:
    """Accuracy, macro F1 and the confusion matrix, summed on the device the predictions are on."""

    def __init__(self, n_classes: int) -> None:
        self._n_classes = n_classes
        self._counts: Tensor | None = None

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: ``logits`` [n, classes], ``targets`` [n]."""
        cells = (targets * self._n_classes + logits.argmax(dim=1)).bincount(
            minlength=self._n_classes**2
        )
        self._counts = cells if self._counts is None else self._counts + cells

    def totals(self, device: torch.device) -> Tensor:
        """The sums so far [classes × classes], on ``device``; what is written into them counts."""
        import torch

        if self._counts is None:
            self._counts = torch.zeros(self._n_classes**2, dtype=torch.int64, device=device)
        return self._counts

    def confusion(self) -> np.ndarray:
        """Counts [true class, predicted class]."""
        shape = (self._n_classes, self._n_classes)
        return (
            np.zeros(shape, np.int64)
            if self._counts is None
            else self._counts.cpu().numpy().reshape(shape)
        )

    def compute(self) -> dict[str, float]:
        """``accuracy`` and ``macro_f1`` in [0, 1].

        Macro F1 is the plain mean over the classes that occur as a target or a prediction, as in
        ``sklearn.metrics.f1_score(average="macro")``.
        """
        confusion = self.confusion()
        hits = np.diag(confusion).astype(float)
        targets_plus_predictions = confusion.sum(axis=1) + confusion.sum(axis=0)
        seen = targets_plus_predictions > 0
        f1 = 2 * hits[seen] / targets_plus_predictions[seen]
        total = confusion.sum()
        return {
            "accuracy": float(hits.sum() / total) if total else 0.0,
            "macro_f1": float(f1.mean()) if seen.any() else 0.0,
        }
