"""The full, frozen configuration of one training. Torch-free: a wrong value is found at once.

Hard validity lives here (a learning rate is positive); the range worth searching lives in the
search space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from trainables.errors import InputError, unknown, valid_choices
from trainables.metrics import LOOP_METRICS, Direction
from trainables.strategies import STRATEGIES, check_settings

if TYPE_CHECKING:
    FreezingName = str
else:
    FreezingName = Literal[*STRATEGIES]

Fraction = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(BaseModel):
    """What every task shares. A task adds its own fields in a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Fields that decide what the prepared data is; configurations that agree on them share it.
    DATA_FIELDS: ClassVar[tuple[str, ...]] = ("data", "split_seed", "val_fraction", "test_fraction")

    # What the task measures on the validation split, and which way is better. Trials are compared
    # by the first, which is also the default of ``monitor``.
    METRICS: ClassVar[dict[str, Direction]] = {}

    # Data
    data: str = Field(description="the data to train on")
    split_seed: int = Field(default=0, ge=0, description="seed of the split into train, val, test")
    val_fraction: Fraction = Field(
        default=0.15, description="share of the data held back to compare trials on"
    )
    test_fraction: Fraction = Field(
        default=0.15, description="share of the data held back for the one test of `thaw retrain`"
    )

    # Model and what of it is trained
    model: str = Field(description="the model to train")
    dropout: Fraction | None = Field(
        default=None, description="probability of dropout; none keeps the model's own"
    )
    freezing: FreezingName = Field(
        default="none",
        description="which parameters train: "
        + "; ".join(f"{name} {strategy.summary}" for name, strategy in STRATEGIES.items()),
    )
    frozen_blocks: int | None = Field(
        default=None, ge=1, description="number of lowest blocks that freezing=first_k freezes"
    )
    thaw_every_epochs: int | None = Field(
        default=None, ge=1, description="epochs between two blocks that freezing=gradual thaws"
    )
    head_epochs: int | None = Field(
        default=None, ge=1, description="epochs in which freezing=lp_ft trains the head alone"
    )
    trained_block: int | None = Field(
        default=None,
        ge=0,
        description="number of the block that freezing=only_k trains; 0 is the lowest",
    )
    lora_rank: int | None = Field(
        default=None, ge=1, description="rank of the adapters of freezing=lora; none takes 8"
    )
    lora_scale: float | None = Field(
        default=None,
        gt=0,
        description="factor on what the adapters of freezing=lora add, which is alpha divided by "
        "the rank; none takes 2",
    )
    lora_from_block: int | None = Field(
        default=None,
        ge=1,
        description="number of lowest blocks that freezing=lora puts no adapters into",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        # ULMFiT, arXiv:1801.06146, uses 1/2.6
        description="learning rate of a block, divided by that of the block above it",
    )

    # Optimisation
    epochs: int = Field(default=10, ge=1, description="passes over the training split")
    batch_size: int = Field(
        default=32, ge=1, description="samples behind one optimiser step, over all workers"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="samples on a device at once; none takes as many as fit"
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="the optimiser")
    learning_rate: float = Field(
        default=1e-3, gt=0, description="peak learning rate of the topmost block"
    )
    momentum: Fraction = Field(default=0.9, description="momentum of optimizer=sgd")
    weight_decay: float = Field(
        default=0.01, ge=0, description="how strongly weights are pulled towards zero"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup_fraction: Fraction = Field(
        default=0.0, description="share of all optimiser steps in which the learning rate rises"
    )
    gradient_clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the gradient; none does not clip"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="floating-point format of the computation; fp16 needs a GPU"
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="epochs without a better `monitor` that end a training; none trains on",
    )
    monitor: str = Field(
        default="train_loss", description="metric that says which epoch of a training was best"
    )
    seed: int = Field(
        default=0, ge=0, description="seed of the weights, the order and augmentation"
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.monitor not in self.metrics():
            raise ValueError(unknown("metric", self.monitor, self.metrics()))
        if self.val_fraction == 0:
            raise ValueError(
                "val_fraction = 0: must be greater than 0; trials are compared on that split"
            )
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction + test_fraction = {self.val_fraction + self.test_fraction:g}: "
                "must be less than 1, or nothing is left to train on"
            )
        check_settings(self)
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size = {self.micro_batch_size}: must be at most "
                f"batch_size = {self.batch_size}"
            )
        return self

    @classmethod
    def metrics(cls) -> dict[str, Direction]:
        """Every metric of an epoch report, the task's own first, and which way is better."""
        return {**cls.METRICS, **LOOP_METRICS}

    def for_evaluation(self) -> Self:
        """The configuration under which a trained model is measured."""
        return self


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
