"""The full, frozen configuration of one training. Torch-free: a wrong value is found at once.

Hard validity lives here (a learning rate is positive); the range worth searching lives in the
search space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from trainables.errors import InputError, unknown, valid_choices
from trainables.metrics import METRIC_DIRECTIONS

Fraction = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(BaseModel):
    """What every task shares. A task adds its own fields in a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Fields that decide what the prepared data is; configurations that agree on them share it.
    DATA_FIELDS: ClassVar[tuple[str, ...]] = ("data", "split_seed", "val_fraction", "test_fraction")

    # Data
    data: str
    split_seed: int = Field(default=0, ge=0)
    val_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.15

    # Model and what of it is trained
    model: str
    dropout: Fraction | None = None  # None keeps the model's own
    freezing: Literal["none", "head", "first_k", "gradual", "lp_ft"] = "none"
    frozen_blocks: int | None = Field(default=None, ge=1)  # k of first_k
    thaw_every_epochs: int | None = Field(default=None, ge=1)  # n of gradual
    head_epochs: int | None = Field(default=None, ge=1)  # of lp_ft, before all blocks train
    # Each block's learning rate is this times that of the block above it
    # (ULMFiT, arXiv:1801.06146, uses 1/2.6).
    layer_decay: float = Field(default=1.0, gt=0, le=1)

    # Optimisation
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(
        default=32, ge=1
    )  # effective: samples behind one optimiser step, over all workers
    micro_batch_size: int | None = Field(
        default=None, ge=1
    )  # samples on a device at once; None: as many as fit
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    momentum: Fraction = 0.9  # sgd only
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.0  # of all optimiser steps
    label_smoothing: Fraction = 0.0
    gradient_clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    early_stopping_patience: int | None = Field(
        default=None, ge=1
    )  # epochs without a better `monitor`
    monitor: str = "val_accuracy"
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.monitor not in METRIC_DIRECTIONS:
            raise ValueError(unknown("metric", self.monitor, METRIC_DIRECTIONS))
        if self.val_fraction == 0:
            raise ValueError(
                "val_fraction = 0: must be greater than 0; trials are compared on that split"
            )
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction:g}: "
                "must be less than 1, or nothing is left to train on"
            )
        for name, strategy in (
            ("frozen_blocks", "first_k"),
            ("thaw_every_epochs", "gradual"),
            ("head_epochs", "lp_ft"),
        ):
            value = getattr(self, name)
            if value is not None and self.freezing != strategy:
                raise ValueError(
                    f"{name} = {value}: only freezing={strategy} uses it, "
                    f"and freezing is {self.freezing}"
                )
        if self.freezing == "first_k" and self.frozen_blocks is None:
            raise ValueError(
                "frozen_blocks is missing: freezing=first_k needs the number of blocks to freeze"
            )
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size = {self.micro_batch_size}: must be at most "
                f"batch_size = {self.batch_size}"
            )
        return self


class ImageClassificationConfig(TrainingConfig):
    """``data`` is digits, mnist, fashion_mnist, or a folder of class folders or of IDX files."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (*TrainingConfig.DATA_FIELDS, "image_size")

    model: str = "resnet18"
    weights: str = "none"  # none, default (torchvision's), or a path to .safetensors, .pt, .pth
    image_size: int = Field(default=64, ge=4, le=1024)  # pixels on a side; images are resized to it
    stem: Literal["auto", "small", "standard"] = "auto"
    augmentation: Literal["none", "digits", "photo"] = "none"
    augmentation_strength: float = Field(default=0.5, ge=0, le=1)
    # Augmented versions of each image to choose from while blocks are frozen, so that what these
    # output can be kept; 0: each epoch makes new ones, and nothing is kept.
    cached_views: int = Field(default=0, ge=0, le=100)


class TextClassificationConfig(TrainingConfig):
    """``data`` is a CSV, TSV or JSONL file, or a folder with train, val and test files."""

    DATA_FIELDS: ClassVar[tuple[str, ...]] = (
        *TrainingConfig.DATA_FIELDS,
        "text_column",
        "label_column",
        "split_column",
        "model",
        "max_tokens",
    )

    model: str = "scratch:bert-mini"  # a Hugging Face name, a local folder, or scratch:NAME
    text_column: str = "text"
    label_column: str = "label"
    split_column: str | None = None  # its values say train, val or test for each row
    max_tokens: int = Field(default=128, ge=8, le=8192)


Config = TypeVar("Config", bound=TrainingConfig)


def check_config(
    values: Mapping[str, Any], config_type: type[Config], *, lax: bool = False
) -> Config:
    """Build a configuration, or say everything that is wrong with it at once.

    Args:
        lax: also take text for numbers, as a command line gives it (``"1e-4"``).

    Raises:
        InputError: a key is unknown, or a value breaks its field's rule.
    """
    try:
        return config_type.model_validate(dict(values), strict=not lax)
    except ValidationError as error:
        raise InputError(
            "\n".join(_explain(problem, config_type) for problem in error.errors())
        ) from None


def _explain(problem: Any, config_type: type[TrainingConfig]) -> str:
    name = ".".join(str(part) for part in problem["loc"][:1])
    if problem["type"] == "extra_forbidden":
        return unknown("setting", name, config_type.model_fields)
    if problem["type"] == "missing":
        return f"{name} is missing: it has no default and must be set"
    if not name:  # from _fields_agree, which words its own message
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{name} = {problem['input']!r}: must be {rule(problem)}"


def rule(problem: Any) -> str:
    """The rule that a value broke, from pydantic's description; it follows the words "must be"."""
    if problem["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return f"one of {valid_choices(problem['input'], options)}"
    text = str(problem["msg"]).partition(",")[0]  # beyond it: how the parser came to know
    return text.removeprefix("Input ").removeprefix("should be ")


def parse_setting(name: str, text: str, config_type: type[TrainingConfig]) -> Any:
    """One ``key=value`` of the command line as the value its field holds; ``none`` stands for None.

    Raises:
        InputError: no such field, or the text is not a value of its type.
    """
    if name not in config_type.model_fields:
        raise InputError(unknown("setting", name, config_type.model_fields))
    field = config_type.model_fields[name]
    optional = type(None) in get_args(field.annotation)
    value = None if optional and text.lower() == "none" else text
    field_type: Any = Annotated[field.annotation, field]
    adapter = TypeAdapter(field_type, config=ConfigDict(allow_inf_nan=False))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InputError(
            _explain({**problem, "loc": (name,), "input": text}, config_type)
        ) from None
