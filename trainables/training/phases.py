"""What trains in an epoch, and what is taken from the prefix cache below it."""

from __future__ import annotations

from trainables.adapting.freezing import (
    n_frozen_blocks,
    parts,
    set_training_mode,
    thaw,
    trainable,
)
from trainables.adapting.frozen_prefix import freeze_prefix
from trainables.training.running import Training


def thaw_for(training: Training, epoch: int) -> None:
    now = trainable(training.config, parts(training.model, training.blocks), epoch)
    if now != training.trainable:
        thaw(training.model, now)
        _freeze_below(training, epoch)
        training.replica = training.parallel.replicate(training.model, training.device)
        training.trainable = now
    training.replica.train()
    set_training_mode(training.model, training.blocks, now)


def _freeze_below(training: Training, epoch: int) -> None:
    """Take what the blocks give below the lowest that trains from the prefix cache, if it pays."""
    config, blocks = training.config, training.blocks
    model_parts = list(parts(training.model, blocks))
    phase = range(epoch, config.epochs)
    frozen = [n_frozen_blocks(config, model_parts, len(blocks), e) for e in phase]
    if training.prefix is not None:
        training.seconds_saved += training.prefix.seconds_saved
    training.prefix, reason = freeze_prefix(
        training.task,
        training.model,
        blocks,
        frozen[0],
        config,
        training.run,
        training.data,
        frozen.count(frozen[0]),
    )
    if reason is None:
        training.prefix_note = f"used below block {blocks[frozen[0]].name}"
    elif not training.prefix_note or (
        frozen[0] > 0 and not training.prefix_note.startswith("used")
    ):  # where all blocks train, what was said of an earlier phase still holds
        training.prefix_note = f"not used: {reason}"


def prefix_tags(training: Training) -> dict[str, str]:
    prefix = training.prefix
    saved = training.seconds_saved + (0.0 if prefix is None else prefix.seconds_saved)
    return {
        "prefix_cache": training.prefix_note,
        "prefix_cache_seconds_saved": f"{saved:.2f}",
    }
