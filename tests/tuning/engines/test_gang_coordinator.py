"""The exchange between trials and gangs: whoever fails, dies or waits, no trial waits for ever."""

from __future__ import annotations

import asyncio
import time

import pytest

from tuning.engines import gang_coordinator as exchange_module
from tuning.engines.gang_coordinator import CLOSE, END, STEP, Exchange
from tuning.hosting.assignment import EpochResult, Outcome

FAILED = Outcome("failed", "it broke")
COMPLETED = Outcome("completed")
RAN_OUT = Outcome("infeasible", "OutOfMemory: no", out_of_memory=True)
EPOCH = EpochResult(1, {"value": 0.5})
SILENT, HUNG = "is dead", "waits for ever"


class Workers:
    """Plays a gang whose workers answer a step as they are told; each from its list in turn."""

    def __init__(
        self, exchange: Exchange, name: str, *answers: list, unclean: bool = False
    ) -> None:
        self._exchange = exchange
        self._name = name
        self._answers = answers
        self._unclean = unclean
        self.was_told_to_end = False
        self._tasks = [asyncio.create_task(self._serve(rank)) for rank in range(len(answers))]

    async def _serve(self, rank: int) -> None:
        if not await self._exchange.join(self._name, rank, "ab12"):
            return
        beats = asyncio.create_task(self._beat(rank))
        answers, number = list(self._answers[rank]), 0
        while True:
            command, _ = await self._exchange.command(self._name, number)
            answer = None
            if command == END:
                break
            if command == STEP:
                answer = answers.pop(0)
            elif command == CLOSE and self._unclean:
                answer = "a file is open"
            if answer == SILENT:
                beats.cancel()
            if answer in (SILENT, HUNG):
                await asyncio.sleep(60)
            await self._exchange.answer(self._name, rank, number, answer)
            number += 1
        beats.cancel()

    async def _beat(self, rank: int) -> None:
        while await self._exchange.beat(self._name, rank):
            await asyncio.sleep(0.02)
        self.was_told_to_end = True

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._exchange.ended(self._name)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(exchange_module, "_SECONDS_UNTIL_GONE", 0.2)


def play(scenario, n_workers: int = 2) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(Exchange(n_workers, grace_seconds=0.4)), timeout=10)

    asyncio.run(run())


def test_one_gang_trains_trial_after_trial():
    async def scenario(exchange: Exchange) -> None:
        workers = Workers(exchange, "g", [EPOCH, COMPLETED, EPOCH], [EPOCH, COMPLETED, EPOCH])
        assert await exchange.begin(0, {}) is None
        assert [await exchange.step(0), await exchange.step(0)] == [EPOCH, COMPLETED]
        await exchange.end(0)
        assert await exchange.begin(1, {}) is None
        assert await exchange.step(1) == EPOCH
        await exchange.end(1)  # stopped early
        assert not workers.was_told_to_end
        await exchange.close()
        await asyncio.gather(*workers._tasks)  # each of them has been sent home
        assert await exchange.ended("g") == (True, "ab12")

    play(scenario)


def test_a_trial_waits_until_a_gang_is_idle():
    async def scenario(exchange: Exchange) -> None:
        waiting = asyncio.create_task(exchange.begin(7, {}))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        Workers(exchange, "g", [EPOCH], [EPOCH])
        assert await waiting is None
        other = asyncio.create_task(exchange.begin(8, {}))
        assert await exchange.step(7) == EPOCH
        assert not other.done()
        await exchange.end(7)
        assert await other is None

    play(scenario)


@pytest.mark.parametrize(
    ("answers", "result", "stays"),
    [
        ([[FAILED], [FAILED]], FAILED, True),  # all alike: in the middle of nothing
        ([[EPOCH], [FAILED]], FAILED, False),
        ([[FAILED], [HUNG]], FAILED, False),
        ([[HUNG], [FAILED]], FAILED, False),
        ([[FAILED], [RAN_OUT]], RAN_OUT, False),  # the first may be what the second did to it
        ([[HUNG], [RAN_OUT]], RAN_OUT, False),
        ([[RAN_OUT], [RAN_OUT]], RAN_OUT, False),
        ([[FAILED], [SILENT]], None, False),  # of a connection to one that has died
    ],
)
def test_one_that_fails_leaves_no_other_waiting(answers, result, stays):
    async def scenario(exchange: Exchange) -> None:
        workers = Workers(exchange, "g", *answers)
        await exchange.begin(0, {})
        started = time.monotonic()
        assert await exchange.step(0) == result
        assert time.monotonic() - started < 2
        await exchange.end(0)
        await asyncio.sleep(0.1)
        assert workers.was_told_to_end == (not stays)
        if stays:
            assert await exchange.begin(1, {}) is None

    play(scenario)


def test_a_gang_whose_process_dies_is_lost_and_the_trial_gets_another():
    async def scenario(exchange: Exchange) -> None:
        workers = Workers(exchange, "g", [HUNG], [HUNG])
        await exchange.begin(0, {})
        step = asyncio.create_task(exchange.step(0))
        await asyncio.sleep(0.05)
        await workers.end()  # as Ray Train tells
        assert await step is None
        await exchange.end(0)
        Workers(exchange, "h", [EPOCH], [EPOCH])
        assert await exchange.begin(0, {}) is None
        assert await exchange.step(0) == EPOCH

    play(scenario)


def test_a_trial_that_is_given_up_loses_its_gang():
    async def scenario(exchange: Exchange) -> None:
        workers = Workers(exchange, "g", [HUNG], [HUNG])
        await exchange.begin(0, {})
        step = asyncio.create_task(exchange.step(0))
        await asyncio.sleep(0.05)
        await exchange.give_up(0)
        assert await step is None
        await asyncio.sleep(0.05)
        assert workers.was_told_to_end

    play(scenario)


def test_a_gang_that_can_not_be_put_back_hosts_no_other_trial():
    async def scenario(exchange: Exchange) -> None:
        workers = Workers(exchange, "g", [EPOCH], [EPOCH], unclean=True)
        await exchange.begin(0, {})
        await exchange.step(0)
        await exchange.end(0)
        await asyncio.sleep(0.05)
        assert workers.was_told_to_end

    play(scenario)


def test_without_any_gang_trials_fail_and_say_why():
    async def scenario(exchange: Exchange) -> None:
        waiting = asyncio.create_task(exchange.begin(0, {}))
        await asyncio.sleep(0.05)
        await exchange.no_more("no worker could be started")
        assert await waiting == Outcome("failed", "no worker could be started")

    play(scenario)


def test_who_comes_late_or_twice_is_not_wanted():
    async def scenario(exchange: Exchange) -> None:
        assert await exchange.join("g", 0)
        assert not await exchange.join("g", 0)  # Ray Train has started it again
        await exchange.close()
        assert not await exchange.join("g", 1)
        assert not await exchange.beat("unknown", 0)
        assert (await exchange.begin(0, {})).state == "failed"

    play(scenario)
