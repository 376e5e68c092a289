"""Text models that start untrained: ``scratch:NAME``, for those without weights from a hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import InputError, unknown
from trainables.modalities.texts.tokenization import train_byte_pairs, train_wordpiece

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ScratchModel:
    """A model that starts untrained, with a vocabulary learned from the training texts."""

    n_layers: int
    width: int
    n_heads: int
    n_tokens: int  # size of the vocabulary, at most
    model_type: str = "bert"  # as config.json calls it
    train_tokenizer: Callable[[Sequence[str], int, Path], None] = train_wordpiece

    def configuration(self, n_tokens: int, n_positions: int, **settings: Any) -> PretrainedConfig:
        """What transformers builds it from; it knows each setting by one name for all models."""
        from transformers import AutoConfig

        return AutoConfig.for_model(
            self.model_type,
            vocab_size=n_tokens,
            num_hidden_layers=self.n_layers,
            hidden_size=self.width,
            num_attention_heads=self.n_heads,
            intermediate_size=4 * self.width,
            max_position_embeddings=n_positions,
            **settings,
        )


# Shapes: Turc et al., "Well-Read Students Learn Better", arXiv:1908.08962; gpt2-mini has that of
# bert-mini. Vocabulary sizes are assumptions: data sets small enough to train from nothing do not
# fill 30,000 tokens.
SCRATCH: dict[str, ScratchModel] = {
    "bert-tiny": ScratchModel(n_layers=2, width=128, n_heads=2, n_tokens=8192),
    "bert-mini": ScratchModel(n_layers=4, width=256, n_heads=4, n_tokens=8192),
    "bert-small": ScratchModel(n_layers=4, width=512, n_heads=8, n_tokens=16384),
    "gpt2-tiny": ScratchModel(2, 128, 2, 2048, "gpt2", train_byte_pairs),
    "gpt2-mini": ScratchModel(4, 256, 4, 8192, "gpt2", train_byte_pairs),
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
