"""Population-based training: who goes on, and who goes on from whose weights.

After Jaderberg et al., "Population Based Training of Neural Networks" (arXiv:1711.09846). All
trials of a sweep are its members. After each interval a member is frozen, with a checkpoint of
just that epoch. When it goes on, and its value is in the worst quarter of those known at that
epoch, it takes the weights of one in the best quarter, with perturbed settings; else it goes on as
it is. Two things differ from the paper: members are compared after the same number of epochs, and
none goes on before half of those to come have arrived: else the first to arrive would always be
the best known, and with as many workers as members hardly any would ever be replaced.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from trainables.metrics import Direction
from tuning.record.events import ENDED_STATES, TrialRecord, TrialState

QUARTER = 4  # of so many members the worst takes over the best one's weights; of fewer, none
# Enough for the best settings to spread to all, a quarter being replaced each time; more only cost
# a start from a checkpoint each.
_N_INTERVALS = 8


def intervals(epochs: int) -> list[int]:
    """The epochs after which members are compared, the last epoch not among them."""
    interval = math.ceil(epochs / _N_INTERVALS)
    return list(range(interval, epochs, interval))


@dataclass(frozen=True)
class Exploit:
    """A member is to go on from the weights that another had after an epoch."""

    epoch: int
    donor: int
    value: float  # of the member at that epoch
    donor_value: float


class Population:
    """Decides for members; knows nothing of who runs them. Its ways are those of ``FreezeThaw``."""

    def __init__(
        self, *, direction: Direction, epochs: int, n_members: int | None, seed: int
    ) -> None:
        """Begin.

        Args:
            epochs: of a whole training.
            n_members: that there will be; None if that is not known, and none is waited for.
        """
        self.rungs = [*intervals(epochs), epochs]
        self._sign = 1.0 if direction == "max" else -1.0
        self._n_members = n_members or 0
        self._seed = seed
        # interval -> member -> its value there, more is better
        self._values: dict[int, dict[int, float]] = {epoch: {} for epoch in self.rungs[:-1]}
        self._arrived: dict[int, int] = {}  # living member -> the last interval behind it, or 0
        self._frozen: dict[int, int] = {}  # member -> the interval after which it waits
        self._unsound: set[int] = set()  # members that failed or diverged
        self._decided: set[tuple[int, int]] = set()  # member and interval
        self._n_started = 0
        self._spent_below = 0

    def start(self, number: int) -> None:
        """Begin a new member's training."""
        self._n_started += 1
        self._arrived[number] = 0

    def observe(self, number: int, epoch: int, value: float) -> bool:
        """Hear of an epoch of a running member; True if it is frozen now."""
        if epoch not in self._values:
            return False
        self._values[epoch][number] = self._sign * value
        self._arrived[number] = epoch
        self._frozen[number] = epoch
        return True

    def ended(self, number: int, state: TrialState = "completed") -> None:
        """Hear that a member has come to its end."""
        self._arrived.pop(number, None)
        self._frozen.pop(number, None)
        if state in ("failed", "infeasible"):
            self._unsound.add(number)

    def restore(self, record: TrialRecord, metric: str, mode: Direction) -> None:
        """Take over a member of an earlier sitting: ended, frozen, or to be run on."""
        number = record.number
        self.start(number)
        for epoch, known in self._values.items():
            if metric in record.curve.get(epoch, {}):
                known[number] = self._sign * record.curve[epoch][metric]
                self._arrived[number] = epoch
        self._decided |= {(number, takeover.epoch) for takeover in record.takeovers}
        if record.state == "frozen":
            self._frozen[number] = self._arrived[number]
        elif record.state in ENDED_STATES:
            self.ended(number, record.state)

    def can_thaw(self, *, is_last_call: bool) -> bool:
        """Whether ``thaw`` would return a member."""
        return self._next(is_last_call) is not None

    def thaw(self, *, is_last_call: bool) -> int | None:
        """A frozen member that should go on; it is running then.

        Args:
            is_last_call: all members have begun.
        """
        number = self._next(is_last_call)
        if number is not None:
            del self._frozen[number]
        return number

    def exploit(self, number: int, can_give: Callable[[int, int], bool]) -> Exploit | None:
        """From whose weights a member goes on that was just thawed; None: from its own.

        Args:
            can_give: whether a member's checkpoint of an epoch is there.
        """
        epoch = self._arrived[number]
        known = self._values.get(epoch, {})
        if number not in known or (number, epoch) in self._decided:
            return None
        self._decided.add((number, epoch))
        ranked = sorted(known, key=lambda member: (-known[member], member))
        n = len(ranked) // QUARTER
        if n == 0 or number not in ranked[-n:]:
            return None
        donors = [
            member
            for member in ranked[:n]
            if known[member] > known[number]
            and member not in self._unsound
            and can_give(member, epoch)
        ]
        if not donors:
            return None
        donor = random.Random(f"{self._seed}, {number}, {epoch}").choice(donors)
        return Exploit(epoch, donor, self._sign * known[number], self._sign * known[donor])

    def give_up(self) -> list[int]:
        """None: a member that is far behind takes over another's weights."""
        return []

    def spent(self) -> list[tuple[int, int]]:
        """Members and epochs whose checkpoint nobody will go on from any more, each told once.

        A member needs the one that it went on from until it has arrived after the next interval.
        """
        behind = min(self._arrived.values(), default=self.rungs[-1])
        if self._n_started < self._n_members:
            behind = 0
        found = [
            (member, epoch)
            for epoch, known in self._values.items()
            if self._spent_below <= epoch < behind
            for member in known
        ]
        self._spent_below = max(behind, self._spent_below)
        return found

    def _next(self, is_last_call: bool) -> int | None:
        """The member furthest behind, once enough others are where it is."""
        if not is_last_call or not self._frozen:
            return None
        number = min(self._frozen, key=lambda member: (self._frozen[member], member))
        epoch = self._frozen[number]
        n_to_come = sum(arrived < epoch for arrived in self._arrived.values())
        is_nobody_running = len(self._frozen) == len(self._arrived)
        if is_nobody_running or len(self._values.get(epoch, ())) >= n_to_come:
            return number
        return None
