"""What the controller asks of a kind of run: which is next, and what comes of what it reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuning.control.goals import Ending
from tuning.hosting.assignment import EpochResult
from tuning.record.events import TrialRecord, TrialState


@dataclass(frozen=True)
class Orders:
    """What a run is to do beside training its configuration."""

    key: str  # its folder in the sweep's store
    save_beyond: float | None = None  # this and the next two as Assignment has them
    save_after: Sequence[int] = ()
    evaluates: str | None = None


class Runs(ABC):
    """One kind of run: trials, confirmations, retrainings or tests."""

    def __init__(self) -> None:
        self._queue: list[TrialRecord] | None = None  # None: not planned in this sitting

    @property
    def n_ahead(self) -> int:
        """How many may still be done, those that run included."""
        return 0

    @abstractmethod
    def _to_do(self) -> Iterable[TrialRecord]:
        """The runs that are still to be done, once those of the kinds before are over."""

    def is_over(self, n_running: int) -> bool:
        """Whether none will be proposed any more; ``n_running`` of this kind may come back."""
        return self._queue == [] and not n_running

    def next(self) -> TrialRecord | None:
        """The next run to start; None if there is none for now."""
        if self._queue is None:
            self._queue = list(self._to_do())
        return self._queue.pop(0) if self._queue else None

    def again(self, run: TrialRecord) -> None:
        """Let a run be the next once more: its worker was lost."""
        self._queue = [run, *(self._queue or [])]

    @abstractmethod
    def orders(self, run: TrialRecord) -> Orders:
        """What ``run``, which is about to start, is to do."""

    def observe(self, run: TrialRecord, result: EpochResult) -> TrialState | None:
        """Hear of a new epoch; the state in which the run ends now, None if it goes on."""
        return None

    @abstractmethod
    def ended(self, run: TrialRecord) -> None:
        """Hear that a run has ended, in the state and with the error that it has now."""

    def end(self, ending: Ending) -> None:  # noqa: B027  those after the first kind need not
        """Propose nothing more, for this reason. The trials' own is enough: it ends all kinds."""

    def close(self, *, is_done: bool) -> None:  # noqa: B027  most have nothing to close
        """Hear that this sitting is over; ``is_done``: nothing of any kind is left to do."""
