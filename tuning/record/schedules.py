"""What the weights of a trial were trained with, where a trial may take over another's weights.

In population-based training a trial's weights need not be its own from the first epoch on: they
have a lineage. What is recorded of it is a schedule: from which epoch on with which settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.record.events import TrialRecord
    from tuning.record.sweep import Sweep


@dataclass(frozen=True)
class Segment:
    """A part of a schedule."""

    first_epoch: int  # counted from 1
    settings: dict[str, Any]  # the searched ones


@dataclass(frozen=True)
class Takeover:
    """A trial went on from the weights of another."""

    epoch: int  # after which
    donor: int  # the trial itself, where it went on from its own after all
    schedule: list[Segment]  # of the weights from then on

    @classmethod
    def from_json(cls, values: Any) -> Takeover:
        """As a ``taken_over`` event has it."""
        segments = [Segment(first_epoch, settings) for first_epoch, settings in values["schedule"]]
        return cls(values["epoch"], values["donor"], segments)


def schedule_to_json(schedule: Sequence[Segment]) -> list[list[Any]]:
    """As plain lists, which ``Takeover.from_json`` reads."""
    return [[segment.first_epoch, dict(segment.settings)] for segment in schedule]


def schedule_of_best(sweep: Sweep, trial: TrialRecord) -> list[Segment]:
    """What the weights of the trial's best epoch were trained with; one segment where it is plain.

    Of the trial as it is now before it has a value.
    """
    best = trial.best_epoch(sweep.metric, sweep.mode)
    return trial.schedule() if best is None else trial.schedule_until(best)


def configurations(
    sweep: Sweep, trial: TrialRecord, schedule: Sequence[Segment]
) -> list[tuple[int, dict[str, Any]]]:
    """The full configuration of each segment, with the epoch that it begins with."""
    if len(schedule) == 1 and schedule[0].settings == trial.point:
        return [(1, trial.config)]
    return [(each.first_epoch, sweep.configuration(each.settings)) for each in schedule]


def config_of_best(sweep: Sweep, trial: TrialRecord) -> dict[str, Any]:
    """The full configuration under which the trial's best epoch was trained."""
    return configurations(sweep, trial, schedule_of_best(sweep, trial))[-1][1]


def describe_schedule(schedule: Sequence[Segment]) -> str:
    """In words: what changed and when, after what it was at first."""
    parts: list[str] = []
    before: dict[str, Any] = {}
    for segment in schedule:
        changed = describe_changes(before, segment.settings)
        parts.append(f"from epoch {segment.first_epoch}: {changed}")
        before = segment.settings
    return "; ".join(parts)


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, as they are now."""
    new = {name: v for name, v in now.items() if name not in before or before[name] != v}
    changed = [f"{name}={_short(value)}" for name, value in new.items()]
    gone = [f"no {name}" for name in before if name not in now]
    return " ".join([*changed, *gone]) or "the same settings"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
