"""Carries commands from trials to gangs, and their workers' answers back.

A gang is a group of workers that train one trial after another together. A trial takes one that is
idle, has it begin, step and end, and leaves it to the next. The ``Exchange`` is an actor of its
own, so that it can tell a worker that waits for another from one that is gone: in a collective
operation the first to fail leaves the others waiting for ever. It knows nothing of Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tuning.hosting.assignment import EpochResult, Outcome

BEGIN, STEP, CLOSE, END = "begin", "step", "close", "end"

# After the first worker has failed: the others fail as well by then, or wait for it (assumed).
GRACE_SECONDS = 10.0
# Workers give a sign every second. One whose process is busy with something else than Python for
# longer is taken for dead, and its trial is tried again (assumed).
_SECONDS_UNTIL_GONE = 6.0

Command = tuple[str, Any]
_State = Literal["starting", "idle", "busy", "leaving", "condemned", "gone"]
Answer = EpochResult | Outcome | str | None  # the last two: what could not be put back, at CLOSE


@dataclass
class _Gang:
    """A group of workers, each known by its rank."""

    n_workers: int
    # Condemned, its workers end themselves at once, in whatever they are; leaving, when they like.
    state: _State = "starting"
    trial: int | None = None
    commands: list[Command] = field(default_factory=list)
    answers: list[dict[int, Answer]] = field(default_factory=list)  # in the order they came
    signs: dict[int, float] = field(default_factory=dict)  # rank -> time.monotonic() of the last
    has_been_up: bool = False
    group: str | None = None  # hexadecimal id of Ray's placement group

    @property
    def is_usable(self) -> bool:
        return self.state in ("idle", "busy")

    @property
    def has_answered(self) -> bool:
        return len(self.answers[-1]) == self.n_workers

    @property
    def failures(self) -> list[Outcome]:
        """Of the workers that have answered, those that failed, the first to do so coming first."""
        answers = self.answers[-1].values()
        return [each for each in answers if isinstance(each, Outcome) and each.state != "completed"]

    def tell(self, command: Command) -> None:
        self.commands.append(command)
        self.answers.append({})

    def is_anyone_dead(self) -> bool:
        """Whether a worker that owes an answer gives no more signs."""
        now = time.monotonic()
        owing = set(range(self.n_workers)) - set(self.answers[-1])
        return any(now - self.signs[rank] > _SECONDS_UNTIL_GONE for rank in owing)


class Exchange:
    """All gangs of a sweep, and the trials that they train."""

    def __init__(self, n_workers: int, grace_seconds: float = GRACE_SECONDS) -> None:
        self._n_workers = n_workers
        self._grace_seconds = grace_seconds
        self._gangs: dict[str, _Gang] = {}
        self._changed = asyncio.Condition()
        self._is_closed = False
        self._broken: str | None = None  # why no gang can be had

    # What workers call

    async def join(self, name: str, rank: int, group: str | None = None) -> bool:
        """Say that a worker is ready; False if it is not wanted.

        Args:
            group: what Ray has set aside for the gang.
        """
        async with self._changed:
            gang = self._gangs.setdefault(name, _Gang(self._n_workers))
            if self._is_closed or gang.state != "starting" or rank in gang.signs:
                return False
            gang.signs[rank], gang.group = time.monotonic(), group
            if len(gang.signs) == gang.n_workers:
                gang.state, gang.has_been_up = "idle", True
                self._changed.notify_all()
            return True

    async def beat(self, name: str, rank: int) -> bool:
        """Give a sign of life; False if the worker has to end itself at once."""
        gang = self._gangs.get(name)
        if gang is None or gang.state == "condemned":
            return False
        gang.signs[rank] = time.monotonic()
        return True

    async def command(self, name: str, number: int) -> Command:
        """The gang's command of that number, counted from 0, as soon as there is one."""
        gang = self._gangs[name]
        await self._until(lambda: len(gang.commands) > number)
        return gang.commands[number]

    async def answer(self, name: str, rank: int, number: int, answer: Answer) -> None:
        """Answer a command."""
        async with self._changed:
            self._gangs[name].answers[number][rank] = answer
            self._changed.notify_all()

    # What trials call

    async def begin(self, trial: int, assignment: dict[str, Any]) -> Outcome | None:
        """Have the next idle gang begin a trial; how it has ended, if it can not even begin."""
        await self._until(lambda: self._idle() is not None or self._ends)
        gang = self._idle()
        if gang is None or self._ends:
            return Outcome("failed", self._broken or "the sweep is over")
        gang.state, gang.trial = "busy", trial
        await self._ask(gang, (BEGIN, assignment))
        return None

    async def step(self, trial: int) -> EpochResult | Outcome | None:
        """Have a trial train one more epoch; None if its gang is lost, through no fault of it."""
        gang = self._of(trial)
        if gang is None:
            return None
        await self._ask(gang, (STEP, None))
        answers, failures = gang.answers[-1], gang.failures
        if not gang.has_answered:
            lost = not gang.is_usable or not failures or gang.is_anyone_dead()
            await self._enter(gang, "condemned")
            return None if lost else _worst(failures)
        if failures:
            if len(failures) < gang.n_workers or _worst(failures).out_of_memory:
                # The others have stopped in the middle of something, or memory is in pieces.
                await self._enter(gang, "condemned")
            return _worst(failures)
        result = answers[0]
        assert isinstance(result, (EpochResult, Outcome))
        return result

    async def end(self, trial: int) -> None:
        """Let a trial's gang go to the next one, or end it if it can not be put back."""
        gang = self._of(trial)
        if gang is None:
            return
        await self._ask(gang, (CLOSE, None))
        if gang.is_usable:
            is_clean = gang.has_answered and not any(gang.answers[-1].values())
            gang.trial = None
            await self._enter(gang, "idle" if is_clean else "condemned")

    # What the driver calls

    async def give_up(self, trial: int) -> None:
        """End the gang of a trial that is silent, or whose relay has died."""
        if (gang := self._of(trial)) is not None:
            await self._enter(gang, "condemned")

    async def ended(self, name: str) -> tuple[bool, str | None]:
        """Hear that a gang's workers have all ended.

        Returns:
            Whether they had ever been ready, and what Ray had set aside for them.
        """
        async with self._changed:
            gang = self._gangs.pop(name, _Gang(self._n_workers))
            gang.state = "gone"
            self._changed.notify_all()
            return gang.has_been_up, gang.group

    async def no_more(self, reason: str) -> None:
        """Say that no gang can be had: trials that wait for one have failed."""
        async with self._changed:
            self._broken = reason
            self._changed.notify_all()

    async def close(self) -> set[str]:
        """Send all workers home; those of a trial that still runs, at once.

        Returns:
            The gangs that are leaving; others were not complete.
        """
        async with self._changed:
            self._is_closed = True
            for gang in self._gangs.values():
                if gang.state == "idle":
                    gang.state = "leaving"
                    gang.tell((END, None))
                elif gang.state == "busy":
                    gang.state = "condemned"
            self._changed.notify_all()
            leaving = ("leaving", "condemned")
            return {name for name, gang in self._gangs.items() if gang.state in leaving}

    @property
    def _ends(self) -> bool:
        return self._is_closed or self._broken is not None

    def _idle(self) -> _Gang | None:
        return next((gang for gang in self._gangs.values() if gang.state == "idle"), None)

    def _of(self, trial: int) -> _Gang | None:
        gangs = (gang for gang in self._gangs.values() if gang.trial == trial and gang.is_usable)
        return next(gangs, None)

    async def _ask(self, gang: _Gang, command: Command) -> None:
        """Send a command; return when all have answered, or when that can not be expected."""
        async with self._changed:
            gang.tell(command)
            self._changed.notify_all()
        await self._until(lambda: gang.has_answered or gang.failures or not gang.is_usable)
        deadline = time.monotonic() + self._grace_seconds
        while not gang.has_answered and gang.is_usable and not gang.is_anyone_dead():
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(min(0.1, self._grace_seconds))

    async def _enter(self, gang: _Gang, state: _State) -> None:
        async with self._changed:
            if gang.state != "gone":
                gang.state = state
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], Any]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)


def _worst(failures: list[Outcome]) -> Outcome:
    """What a trial has failed of: out of memory, else what came first and may be the cause."""
    return next((each for each in failures if each.out_of_memory), failures[0])
