"""Text models that start untrained: ``scratch:NAME``, for those without weights from a hub."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import InputError, unknown


@dataclass(frozen=True)
class ScratchModel:
    """A BERT that starts untrained, with a vocabulary learned from the training texts."""

    n_layers: int
    width: int
    n_heads: int
    n_tokens: int  # size of the vocabulary, at most


# Shapes: Turc et al., "Well-Read Students Learn Better", arXiv:1908.08962. Vocabulary sizes are
# assumptions: data sets small enough to train from nothing do not fill 30,000 tokens.
SCRATCH: dict[str, ScratchModel] = {
    "bert-tiny": ScratchModel(n_layers=2, width=128, n_heads=2, n_tokens=8192),
    "bert-mini": ScratchModel(n_layers=4, width=256, n_heads=4, n_tokens=8192),
    "bert-small": ScratchModel(n_layers=4, width=512, n_heads=8, n_tokens=16384),
}
_SCRATCH = "scratch:"


def scratch_model(model: str) -> ScratchModel | None:
    """The row of ``scratch:NAME``, None for any other model.

    Raises:
        InputError: there is no such row.
    """
    if not model.startswith(_SCRATCH):
        return None
    name = model.removeprefix(_SCRATCH)
    if name not in SCRATCH:
        raise InputError(unknown("model", model, [f"{_SCRATCH}{row}" for row in SCRATCH]))
    return SCRATCH[name]
