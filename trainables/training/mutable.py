"""Settings that may change in the middle of a training: the table, with the reason of each.

All others decide what the weights are, what they learn from, or for how long; a training that went
on with another value of one of them would be none that could be said in a sentence.
"""

from __future__ import annotations

from trainables.config import TrainingConfig

# setting -> what a changed value means for a training that goes on from a checkpoint
MUTABLE: dict[str, str] = {
    "learning_rate": "each parameter group gets it anew; the schedule's factor goes on as it was",
    "layer_decay": "it is only how the learning rate differs between parameter groups",
    "weight_decay": "a factor of each step, kept in the parameter groups",
    "momentum": "a factor of each step; what was gathered so far stays",
    "gradient_clip_norm": "a bound on each step, without a memory",
    "label_smoothing": "a part of the loss, without a memory",
    "dropout": "the model has the same parameters with any of it",
    "augmentation_strength": "how the images of the epochs to come are changed",
}


def mutable_settings(config_type: type[TrainingConfig]) -> tuple[str, ...]:
    """The settings of a task that may change in the middle of a training."""
    return tuple(name for name in MUTABLE if name in config_type.model_fields)
