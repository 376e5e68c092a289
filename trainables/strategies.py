"""The strategies: which parameters of a model train, and in which epoch. Imports no torch.

A strategy is a predicate over (block, parameter, epoch), and one row of ``STRATEGIES``. All of them
train the head, and only ever thaw: what trains in one epoch trains in all later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trainables.errors import InputError

if TYPE_CHECKING:
    from trainables.config import TrainingConfig

Kind = Literal["weight", "bias", "norm", "adapter"]  # norm: of a normalisation


@dataclass(frozen=True)
class Part:
    """A parameter of a model, as a strategy sees it."""

    name: str  # dotted
    block: int  # number of its block; 0 is the lowest
    n_blocks: int
    kind: Kind = "weight"

    @property
    def in_head(self) -> bool:
        return self.block == self.n_blocks - 1


@dataclass(frozen=True)
class Setting:
    """A setting of the configuration that one strategy uses, and no other."""

    name: str
    is_required: bool = False
    # Where it counts blocks: its least value, and how far its largest one is below their number.
    blocks: tuple[int, int] | None = None


@dataclass(frozen=True)
class Strategy:
    """Which parameters train."""

    summary: str  # goes on from the strategy's name
    # (config, parameter, epoch counted from 0) -> whether it trains then
    trains: Callable[[TrainingConfig, Part, int], bool]
    settings: tuple[Setting, ...] = ()
    has_adapters: bool = False  # parameters that are put into the model, to train in its place


def _gradual(config: TrainingConfig, part: Part, epoch: int) -> bool:
    """From the top, one block more every n epochs (ULMFiT, arXiv:1801.06146, section 3.3)."""
    n_thawed = 1 + epoch // (config.thaw_every_epochs or 1)
    return part.block >= part.n_blocks - n_thawed


def _head_then_all(config: TrainingConfig, part: Part, epoch: int) -> bool:
    """The head alone, then all, which distorts what was learned less (LP-FT, arXiv:2202.10054)."""
    return part.in_head or epoch >= (config.head_epochs or 1)


STRATEGIES: dict[str, Strategy] = {
    "none": Strategy("freezes nothing", lambda config, part, epoch: True),
    "head": Strategy("trains the head alone", lambda config, part, epoch: part.in_head),
    "first_k": Strategy(
        "freezes the lowest blocks",
        lambda config, part, epoch: part.block >= (config.frozen_blocks or 0),
        (Setting("frozen_blocks", is_required=True, blocks=(1, 1)),),
    ),
    "gradual": Strategy("thaws from the top", _gradual, (Setting("thaw_every_epochs"),)),
    "lp_ft": Strategy(
        "trains the head first, then everything", _head_then_all, (Setting("head_epochs"),)
    ),
    # Surgical fine-tuning, arXiv:2210.11466
    "only_k": Strategy(
        "trains one block and the head",
        lambda config, part, epoch: part.in_head or part.block == config.trained_block,
        (Setting("trained_block", is_required=True, blocks=(0, 2)),),
    ),
    # BitFit, arXiv:2106.10199, and the norms' own scales
    "norm_and_bias": Strategy(
        "trains norms, biases and the head",
        lambda config, part, epoch: part.in_head or part.kind in ("norm", "bias"),
    ),
    # arXiv:2106.09685
    "lora": Strategy(
        "trains low-rank adapters and the head",
        lambda config, part, epoch: part.in_head or part.kind == "adapter",
        (
            Setting("lora_rank"),
            Setting("lora_scale"),
            Setting("lora_from_block", blocks=(1, 2)),
        ),
        has_adapters=True,
    ),
}


def strategy_of(config: TrainingConfig) -> Strategy:
    """The strategy that ``config`` names."""
    return STRATEGIES[config.freezing]


def check_settings(config: TrainingConfig) -> None:
    """Check that each strategy's settings are given with it alone.

    Raises:
        ValueError: the strategy lacks a setting that it needs, or a setting is another strategy's.
    """
    for name, strategy in STRATEGIES.items():
        for setting in strategy.settings:
            value = getattr(config, setting.name)
            if name != config.freezing and value is not None:
                raise ValueError(
                    f"{setting.name} = {value}: only freezing={name} uses it, "
                    f"and freezing is {config.freezing}"
                )
            if name == config.freezing and value is None and setting.is_required:
                raise ValueError(
                    f"{setting.name} is missing: freezing={name} needs it, since it "
                    f"{strategy.summary}"
                )


def names_a_block(config: TrainingConfig) -> bool:
    """Whether a setting counts the model's blocks, so that ``check_block_numbers`` has work."""
    return any(
        setting.blocks is not None and getattr(config, setting.name) is not None
        for setting in strategy_of(config).settings
    )


def check_block_numbers(config: TrainingConfig, block_names: Sequence[str]) -> None:
    """Check what ``config`` says of the blocks of its model.

    Raises:
        InputError: the model has too few blocks.
    """
    for setting in strategy_of(config).settings:
        value = getattr(config, setting.name)
        if value is None or setting.blocks is None:
            continue
        least, short_of_all = setting.blocks
        largest = len(block_names) - short_of_all
        if value > largest:
            raise InputError(
                f"{setting.name} = {value}: must be from {least} to {largest}, because "
                f"{config.model} has {len(block_names)} blocks ({_listed(block_names)}) "
                "and the last one always trains"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 10 else [*names[:3], "…", *names[-2:]])
