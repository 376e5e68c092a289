"""One class of several: its settings, loss, metrics, and how it is told to a person.

The module imports torch only where a function needs it: settings and class names do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from trainables.config import Fraction, TrainingConfig
from trainables.data.records import Record, label
from trainables.errors import InputError
from trainables.metrics import Direction
from trainables.prepared import Batch, DataInfo
from trainables.targets.target import AnswerColumn, Answers, Target
from trainables.task import Evaluation, Trained

if TYPE_CHECKING:
    from torch import Tensor

_MOST_CLASSES_WITH_COUNTS = 30  # beyond, the numbers of a confusion matrix can not be read


class ClassesConfig(TrainingConfig):
    """Settings of tasks that predict a class."""

    METRICS: ClassVar[dict[str, Direction]] = {
        "val_accuracy": "max",
        "val_macro_f1": "max",
        "val_loss": "min",
    }

    monitor: str = Field(
        default="val_accuracy", description="metric that says which epoch of a training was best"
    )
    label_smoothing: Fraction = Field(
        default=0.0, description="share of the target that is spread over all classes"
    )

    def for_evaluation(self) -> Self:
        """Without label smoothing: then the loss compares across configurations."""
        return self.model_copy(update={"label_smoothing": 0.0})


def loss(logits: Tensor, batch: Batch, config: ClassesConfig) -> Tensor:
    """Cross-entropy with ``config.label_smoothing``, summed over the samples.

    Summed, not averaged: a batch cut into unequal micro-batches then gives the same gradient.

    Args:
        logits: [n, classes]; half precision is widened first.
        batch: ``label`` has class indices [n].
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(
        logits.float(), batch["label"], reduction="sum", label_smoothing=config.label_smoothing
    )


class ClassificationMeter:
    """Accuracy, macro F1 and the confusion matrix, summed on the device the predictions are on."""

    def __init__(self, info: DataInfo) -> None:
        self._n_classes = len(info.classes)
        self._counts: Any = 0

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add a batch: ``logits`` [n, classes], ``label`` [n]."""
        cells = batch["label"] * self._n_classes + logits.argmax(dim=1)
        self._counts = self._counts + cells.bincount(minlength=self._n_classes**2)

    def state(self) -> np.ndarray:
        """Counts [true class, predicted class]."""
        shape = (self._n_classes, self._n_classes)
        if isinstance(self._counts, int):
            return np.zeros(shape, np.int64)
        counts: np.ndarray = np.asarray(self._counts.cpu()).reshape(shape)
        return counts

    def merge(self, states: Sequence[np.ndarray]) -> None:
        """Take the counts of all workers together."""
        import torch

        self._counts = torch.from_numpy(np.sum(states, axis=0).reshape(-1))

    def compute(self, loss: float) -> dict[str, float]:
        """``accuracy`` and ``macro_f1`` in [0, 1].

        Macro F1 is the plain mean over the classes that occur as a target or a prediction, as in
        ``sklearn.metrics.f1_score(average="macro")``.
        """
        confusion = self.state()
        hits = np.diag(confusion).astype(float)
        targets_plus_predictions = confusion.sum(axis=1) + confusion.sum(axis=0)
        seen = targets_plus_predictions > 0
        f1 = 2 * hits[seen] / targets_plus_predictions[seen]
        total = confusion.sum()
        return {
            "accuracy": float(hits.sum() / total) if total else 0.0,
            "macro_f1": float(f1.mean()) if seen.any() else 0.0,
        }


def decode(
    logits: Tensor, batch: Batch, items: Sequence[Any], trained: Trained
) -> list[dict[str, Any]]:
    """The most probable class of each item, and how probable it is."""
    probabilities, indices = logits.float().softmax(dim=1).max(dim=1)
    return [
        {"label": trained.info.classes[index], "probability": probability}
        for index, probability in zip(indices.tolist(), probabilities.tolist(), strict=True)
    ]


def artifacts(evaluation: Evaluation, trained: Trained) -> dict[str, Any]:
    """The confusion matrix, as counts and as a picture."""
    confusion, classes = evaluation.meter.state(), trained.info.classes
    return {
        "confusion_matrix.json": {"classes": list(classes), "counts": confusion.tolist()},
        "confusion_matrix.png": _picture(confusion, classes),
    }


def _picture(confusion: np.ndarray, classes: Sequence[str]) -> Any:
    """The confusion matrix as a figure: rows are true classes, columns predicted ones."""
    from matplotlib.figure import Figure

    side = min(4 + 0.3 * len(classes), 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{confusion.sum()} samples")
    if len(classes) <= _MOST_CLASSES_WITH_COUNTS:
        for true, predicted in np.argwhere(confusion):
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            count = str(confusion[true, predicted])
            axes.text(predicted, true, count, ha="center", va="center", color=colour)
    return figure


def class_names(
    splits: Mapping[str, Sequence[Record]], config: Any, setting: str = "label_column"
) -> tuple[str, ...]:
    """The labels of the training split, sorted; by number if all are whole numbers.

    Raises:
        InputError: there are fewer than two, or another split has one that training has not.
    """
    counts = Counter(record[setting] for record in splits["train"])
    where = f"{setting} = {getattr(config, setting)!r}"
    for split in ("val", "test"):
        strange = next((each for each in splits[split] if each[setting] not in counts), None)
        if strange is not None:
            raise InputError(
                f"{where}: label {strange[setting]!r} (line {strange.line} of the {split} split)"
                " occurs in no row of the training split"
            )
    if len(counts) < 2:
        raise InputError(
            f"{where}: needs at least 2 classes, and the training split has only "
            f"{', '.join(map(repr, counts))}"
        )
    try:
        return tuple(sorted(counts, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(counts))


def class_answers(splits: Mapping[str, Sequence[Record]], config: Any) -> Answers:
    """The class of each record as ``label``, int64 [n].

    Raises:
        InputError: as ``class_names``.
    """
    classes = class_names(splits, config)
    index = {name: i for i, name in enumerate(classes)}
    return indexed_answers(
        {name: [index[row["label_column"]] for row in rows] for name, rows in splits.items()},
        classes,
    )


def indexed_answers(
    splits: Mapping[str, Sequence[int] | np.ndarray], classes: tuple[str, ...]
) -> Answers:
    """The class of each sample, given as its index, as ``label``, int64 [n]."""
    labels = {name: {"label": np.array(indices, np.int64)} for name, indices in splits.items()}
    return Answers(labels, f"{len(classes)} classes", classes)


CLASS_COLUMN = AnswerColumn("label_column", label, class_answers, stratify=True)
CLASSES = Target(
    loss=loss,
    meter=ClassificationMeter,
    decode=decode,
    answer={"label": "a class", "probability": 0.5},
    artifacts=artifacts,
)
