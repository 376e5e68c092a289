"""What an epoch report must hold, whoever wrote the training that yields it."""

from __future__ import annotations

import math
import sys

from trainables.errors import InputError, TrialInfeasible
from trainables.task import EpochReport
from tuning.hosting.assignment import Assignment


def checked_metrics(
    report: EpochReport, assignment: Assignment, measured_seconds: float
) -> dict[str, float]:
    """The finite metrics of a report, and what the GPU's memory came to.

    Args:
        measured_seconds: of the epoch, for a training that does not report them.

    Raises:
        InputError: it is no report, or lacks a metric that trials are compared by.
        TrialInfeasible: such a metric is not finite.
    """
    if not isinstance(report, EpochReport):
        raise InputError(
            f"the training function yielded a {type(report).__name__}; it must yield EpochReport"
        )
    reported = {name: float(value) for name, value in report.metrics.items()}
    metrics = {"seconds": measured_seconds, **reported}
    for metric in assignment.compared_by:
        if metric not in metrics:
            raise InputError(
                f"metric {metric!r} is not in the epoch report; "
                f"reported: {', '.join(sorted(metrics))}"
            )
        if not math.isfinite(metrics[metric]):
            raise TrialInfeasible(f"{metric} is {metrics[metric]} after epoch {report.epoch}")
    metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return {**_gpu_memory(), **metrics}


def _gpu_memory() -> dict[str, float]:
    """What the GPU has and what tensors took of it at their peak; nothing where none is used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "gpu_memory_bytes": float(torch.cuda.get_device_properties(0).total_memory),
        "peak_memory_bytes": float(torch.cuda.max_memory_allocated()),
    }
