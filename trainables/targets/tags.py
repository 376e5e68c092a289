"""A tag for each word: settings, loss, entity metrics, and how entities are told to a person.

Tags are IOB2, or classes without B- and I-, each of which then is an entity of one word. A word's
tag stands at its first token; elsewhere the label is ``IGNORED``. The module imports torch only
where a function needs it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from trainables.config import TrainingConfig
from trainables.errors import InputError
from trainables.metrics import Direction
from trainables.prepared import SPLITS, Batch, DataInfo, Split
from trainables.targets.target import Target
from trainables.task import Evaluation, Trained

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # as torch's cross_entropy has it
Span = tuple[str, int, int]  # type, first word, last word


class TagsConfig(TrainingConfig):
    """Settings of tasks that tag words."""

    METRICS: ClassVar[dict[str, Direction]] = {
        "val_f1": "max",
        "val_precision": "max",
        "val_recall": "max",
        "val_loss": "min",
    }

    monitor: str = Field(
        default="val_f1", description="metric that says which epoch of a training was best"
    )


def entities(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence, as the package seqeval finds them in IOB2 by default.

    An I- after nothing or after another type begins an entity, too.
    """
    found: list[Span] = []
    for position, tag in enumerate(tags):
        prefix, hyphen, kind = tag.partition("-")
        if not hyphen or prefix not in ("B", "I"):
            if tag != "O":
                found.append((tag, position, position))
            continue
        goes_on = prefix == "I" and found and found[-1][0] == kind and found[-1][2] == position - 1
        if goes_on:
            found[-1] = (kind, found[-1][1], position)
        else:
            found.append((kind, position, position))
    return found


def tag_names(splits: Mapping[str, Sequence[Sequence[str]]], data: str) -> tuple[str, ...]:
    """The tags of the training split: O first, the others sorted.

    Raises:
        InputError: there are fewer than two, or another split has one that training has not.
    """
    known, *others = ({tag for tags in splits[name] for tag in tags} for name in SPLITS)
    strange = set[str]().union(*others) - known
    if strange:
        raise InputError(
            f"data = {data!r}: tag {min(strange)!r} occurs in no sentence of the training split"
        )
    if len(known) < 2:
        raise InputError(
            f"data = {data!r}: needs at least 2 tags, and the training split has only "
            f"{', '.join(map(repr, known)) or 'none'}"
        )
    return tuple(sorted(known, key=lambda tag: (tag != "O", tag)))


def loss(logits: Tensor, batch: Batch, config: TagsConfig) -> Tensor:
    """Cross-entropy, summed over the words.

    Args:
        logits: [n, positions, tags]; half precision is widened first.
        batch: ``label`` [n, at least as many positions].
    """
    from torch.nn.functional import cross_entropy

    labels = batch["label"][:, : logits.shape[1]].long()
    return cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def n_words(split: Split) -> np.ndarray:
    """How many words of each sample have a tag [n]."""
    n: np.ndarray = (np.asarray(split.arrays["label"]) != IGNORED).sum(axis=1)
    return n


class TagMeter:
    """Counts entities by type: those that are there, that were predicted, and that were both."""

    def __init__(self, info: DataInfo) -> None:
        self._tags = info.classes
        names = ("true", "predicted", "correct")
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in names}

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add a batch: ``logits`` [n, positions, tags], ``label`` [n, positions]."""
        labels = batch["label"][:, : logits.shape[1]].cpu().numpy()
        chosen = logits.argmax(dim=2).cpu().numpy()
        for true, predicted in zip(labels, chosen, strict=True):
            words = true != IGNORED
            there, said = (
                set(entities([self._tags[i] for i in row[words]])) for row in (true, predicted)
            )
            for name, found in zip(self._counts, (there, said, there & said), strict=True):
                self._counts[name].update(kind for kind, _, _ in found)

    def state(self) -> dict[str, Counter[str]]:
        """How many entities of each type: true, predicted, correct."""
        return self._counts

    def merge(self, states: Sequence[Mapping[str, Counter[str]]]) -> None:
        """Take the counts of all workers together."""
        for name in self._counts:
            self._counts[name] = sum((state[name] for state in states), Counter())

    def by_type(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and the number of true entities (support) of each type."""
        kinds = sorted(self._counts["true"] | self._counts["predicted"])
        return {kind: self._scores([kind]) for kind in kinds}

    def _scores(self, kinds: Sequence[str]) -> dict[str, float]:
        true, predicted, correct = (
            sum(counts[kind] for kind in kinds) for counts in self._counts.values()
        )
        return {
            "precision": correct / predicted if predicted else 0.0,
            "recall": correct / true if true else 0.0,
            "f1": 2 * correct / (true + predicted) if true + predicted else 0.0,
            "support": float(true),
        }

    def compute(self, loss: float) -> dict[str, float]:
        """Precision, recall and F1 over all entities, in [0, 1], and F1 of each type."""
        types = self.by_type()
        scores = self._scores(list(types))
        del scores["support"]
        return {**scores, **{f"f1_{_named(kind)}": found["f1"] for kind, found in types.items()}}


def _named(kind: str) -> str:
    """A type in the name of a metric, which MLflow takes only some characters in."""
    return re.sub(r"[^\w.-]", "_", kind, flags=re.ASCII)


def decode(
    logits: Tensor, batch: Batch, items: Sequence[Any], trained: Trained
) -> list[dict[str, Any]]:
    """The entities of each item: type, text, where it is, and the least probability of its tags.

    Args:
        batch: ``label`` tells tagged positions from ``IGNORED`` ones; ``spans`` where in the text
            each tagged word is, a list of [words, 2] for each item.
    """
    rows = []
    probabilities, chosen = logits.float().softmax(dim=2).max(dim=2)
    for number, item in enumerate(items):
        tagged = batch["label"][number, : logits.shape[1]] != IGNORED
        tags = [trained.info.classes[i] for i in chosen[number][tagged].tolist()]
        certain, spans = probabilities[number][tagged].tolist(), batch["spans"][number].tolist()
        text = item.decode("utf-8-sig") if isinstance(item, bytes) else item
        found = [
            {
                "type": kind,
                "text": text[spans[first][0] : spans[last][1]],
                "start": spans[first][0],
                "end": spans[last][1],
                "probability": min(certain[first : last + 1]),
            }
            for kind, first, last in entities(tags)
        ]
        rows.append({"entities": found})
    return rows


def artifacts(evaluation: Evaluation, trained: Trained) -> dict[str, Any]:
    """Scores of each type."""
    return {"entities.json": evaluation.meter.by_type()}


TAGS = Target(
    loss=loss,
    meter=TagMeter,
    decode=decode,
    answer={
        "entities": [{"type": "person", "text": "a name", "start": 0, "end": 6, "probability": 0.5}]
    },
    artifacts=artifacts,
)
