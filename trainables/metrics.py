"""What an epoch is measured by, and which way is better. Torch-free."""

from __future__ import annotations

from typing import Literal

Direction = Literal["max", "min"]

# What the loop itself measures, whatever the task. A task adds its own: see ``TrainingConfig``.
LOOP_METRICS: dict[str, Direction] = {
    "train_loss": "min",
    "seconds": "min",
    "samples_per_second": "max",
    "trainable_parameters": "min",
    "peak_memory_bytes": "min",
}
METRIC_ALIASES = {"seconds_per_epoch": "seconds"}  # an epoch report's seconds are of one epoch
