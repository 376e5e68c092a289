"""What every task on texts can be told. Torch-free."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from trainables.config import TrainingConfig


class TextConfig(TrainingConfig):
    """Settings of tasks whose inputs are texts."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TrainingConfig.DATA_FIELDS, "model", "max_tokens")
    PREDICTS_NEXT: ClassVar[bool] = False  # tokens, so that the model must not see what follows

    model: str = Field(
        default="scratch:bert-mini",
        description="a model's name on the Hugging Face hub, a local folder, or scratch:NAME",
    )
    max_tokens: int = Field(
        default=128, ge=8, le=8192, description="tokens of a text that the model reads at most"
    )
