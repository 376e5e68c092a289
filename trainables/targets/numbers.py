"""A number: its settings, loss, metrics, and how it is told to a person.

The model predicts it in units of the training split's spread, and it is told in its own unit. The
module imports torch only where a function needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from trainables.config import TrainingConfig
from trainables.data.records import Record, number
from trainables.errors import InputError
from trainables.metrics import Direction
from trainables.prepared import Batch, DataInfo
from trainables.targets.target import AnswerColumn, Answers, Target
from trainables.task import Evaluation, Trained

if TYPE_CHECKING:
    from torch import Tensor


class NumbersConfig(TrainingConfig):
    """Settings of tasks that predict a number."""

    METRICS: ClassVar[dict[str, Direction]] = {
        "val_mae": "min",
        "val_rmse": "min",
        "val_r2": "max",
        "val_spearman": "max",
        "val_loss": "min",
    }

    monitor: str = Field(
        default="val_mae", description="metric that says which epoch of a training was best"
    )
    number_column: str = Field(default="number", description="column that holds the numbers")


def number_answers(splits: Mapping[str, Sequence[Record]], config: NumbersConfig) -> Answers:
    """The number of each record as ``label``, float32 [n], standardised from the training split.

    ``details`` has ``number_mean`` and ``number_std``, which undo that.

    Raises:
        InputError: the numbers of the training split are all the same, or their spread can not be
            computed.
    """
    numbers = {
        name: np.array([row["number_column"] for row in rows], np.float64)
        for name, rows in splits.items()
    }
    low, high = float(numbers["train"].min()), float(numbers["train"].max())
    where = f"number_column = {config.number_column!r}"
    if low == high:
        raise InputError(
            f"{where}: all {len(numbers['train'])} numbers of the training split are {low:g}; there"
            " is nothing to predict"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(numbers["train"].mean()), float(numbers["train"].std())
    if not 0 < std < math.inf:
        raise InputError(
            f"{where}: the numbers of the training split, from {low:g} to {high:g}, are too close"
            " or too far apart to compute with; give them in another unit"
        )
    return Answers(
        labels={
            name: {"label": ((each - mean) / std).astype(np.float32)}
            for name, each in numbers.items()
        },
        summary=f"numbers from {low:.6g} to {high:.6g}, {mean:.6g} on average",
        details={"number_mean": mean, "number_std": std},
    )


def loss(outputs: Tensor, batch: Batch, config: NumbersConfig) -> Tensor:
    """Squared error of standardised numbers, summed over the samples.

    Args:
        outputs: [n, 1]; half precision is widened first.
        batch: ``label`` has the numbers [n].
    """
    from torch.nn.functional import mse_loss

    return mse_loss(outputs.float().squeeze(1), batch["label"], reduction="sum")


class NumberMeter:
    """Errors in the number's own unit; all pairs are kept, since ranks need them together."""

    def __init__(self, info: DataInfo) -> None:
        self._mean, self._std = info.details["number_mean"], info.details["number_std"]
        self._pairs: list[np.ndarray] = [np.empty((2, 0))]  # each [2, n]: predicted, true

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch: ``outputs`` [n, 1], ``label`` [n]."""
        standardised = [outputs.float().squeeze(1).cpu().numpy(), batch["label"].cpu().numpy()]
        self._pairs.append(np.stack(standardised).astype(np.float64) * self._std + self._mean)

    def state(self) -> np.ndarray:
        """Predicted and true numbers [2, n], in their own unit."""
        return np.concatenate(self._pairs, axis=1)

    def merge(self, states: Sequence[np.ndarray]) -> None:
        """Take the pairs of all workers together."""
        self._pairs = list(states)

    def compute(self, loss: float) -> dict[str, float]:
        """Mean absolute error, root mean squared error, R² and Spearman's rank correlation.

        R² and the correlation are 0 where they are not defined: of numbers that are all the same.
        """
        from scipy.stats import rankdata

        predicted, true = self.state()
        errors = predicted - true
        spread = float(((true - true.mean()) ** 2).sum())
        varies = spread > 0 and bool(np.ptp(predicted) > 0)
        ranks = [rankdata(predicted), rankdata(true)]
        return {
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "r2": 1 - float((errors**2).sum()) / spread if spread > 0 else 0.0,
            "spearman": float(np.corrcoef(ranks)[0, 1]) if varies else 0.0,
        }


def decode(
    outputs: Tensor, batch: Batch, items: Sequence[Any], trained: Trained
) -> list[dict[str, Any]]:
    """The predicted number of each item, in its own unit."""
    details = trained.info.details
    standardised = outputs.squeeze(1).cpu().double()  # in single precision a date loses minutes
    numbers = standardised * details["number_std"] + details["number_mean"]
    return [{"number": each} for each in numbers.tolist()]


def artifacts(evaluation: Evaluation, trained: Trained) -> dict[str, Any]:
    """Predicted against true numbers, as a picture."""
    from matplotlib.figure import Figure

    predicted, true = evaluation.meter.state()
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(true, predicted, s=8, alpha=0.5)
    axes.axline((float(true.mean()), float(true.mean())), slope=1, color="grey", linewidth=1)
    axes.set_xlabel("true number")
    axes.set_ylabel("predicted number")
    axes.set_title(f"{len(true)} samples")
    return {"predicted_and_true.png": figure}


NUMBER_COLUMN = AnswerColumn("number_column", number, number_answers)
NUMBERS = Target(
    loss=loss,
    meter=NumberMeter,
    decode=decode,
    answer={"number": 0.5},
    artifacts=artifacts,
)
