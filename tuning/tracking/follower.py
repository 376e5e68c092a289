"""Follows a sweep's record in a thread, and has what happens written somewhere in batches."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from tuning.record.events import Event, Record
from tuning.tracking.mlflow_client import reason_of

_SECONDS_BETWEEN_BATCHES = 1.0


_SECONDS_BETWEEN_RETRIES = 5.0


# How long the end of a sweep waits for MLflow while it answers, and while it does not.
_SECONDS_TO_FLUSH, _SECONDS_TO_FLUSH_FAILING = 120.0, 12.0


_SECONDS_WAITED_WITHOUT_A_WORD = 6.0  # its import takes half of that


Item = TypeVar("Item")


class _GivenUp(Exception):
    """The sweep has ended and MLflow is still away."""


class Writer(Protocol):
    """Writes a record somewhere. Each call may be repeated after it failed half-way."""

    def open(self) -> None: ...

    def write(self, events: Iterable[Event]) -> None: ...


class Follower:
    """Follows a record in a thread, and has what happens written in batches."""

    def __init__(
        self,
        record: Record,
        make_writer: Callable[[], Writer],
        warn: Callable[[str], None],
        *,
        name: str,
        where: str,
    ) -> None:
        """Follow ``record``; ``name`` and ``where`` say in messages what is written to."""
        self._record = record
        self._make_writer = make_writer
        self._warn = warn
        self._name = name
        self._where = where
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._failing = False  # whether the latest attempt failed
        self._warned = False
        self._failure: str | None = None

    def start(self) -> None:
        """Begin to follow the record. What it holds already and is not written is written first."""
        self._record.listen(self._follow)
        self._thread.start()

    def _follow(self, event: Event) -> None:
        if event["event"] != "mlflow_run":  # the writer's own
            self._queue.put(event)

    def close(self) -> bool:
        """Write what is left; False if that is not taken, or taken too slowly."""
        self._closing.set()
        self._queue.put(None)
        started, told = time.monotonic(), False
        while self._thread.is_alive():
            self._thread.join(0.1)
            waited = time.monotonic() - started
            if waited > _SECONDS_WAITED_WITHOUT_A_WORD and not told:
                told = True
                self._warn(f"waiting for {self._where} to take what is left …")
            if waited > (_SECONDS_TO_FLUSH_FAILING if self._failing else _SECONDS_TO_FLUSH):
                break
        self._given_up.set()
        return not self._thread.is_alive() and self._failure is None

    def _run(self) -> None:
        try:
            writer = self._patiently(self._make_writer)
            self._patiently(writer.open)
            while True:
                events = self._next_batch()
                if events:
                    self._patiently(lambda batch=events: writer.write(batch))  # type: ignore[misc]
                elif self._closing.is_set() and self._queue.empty():
                    return
        except _GivenUp:
            return
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            self._warn(f"{self._name}: {self._failure}")

    def _next_batch(self) -> list[Event]:
        events: list[Event] = []
        try:
            first = self._queue.get(timeout=_SECONDS_BETWEEN_BATCHES)
            if first is None:
                return events
            events.append(first)
            if not self._closing.is_set():
                time.sleep(_SECONDS_BETWEEN_BATCHES)
            while True:
                event = self._queue.get_nowait()
                if event is not None:
                    events.append(event)
        except queue.Empty:
            return events

    def _patiently(self, action: Callable[[], Item]) -> Item:
        """Try until it works, or until ``close`` has waited long enough.

        Raises:
            _GivenUp: nobody waits any longer. The record still has it all.
        """
        while True:
            try:
                result = action()
                self._failing = False
                return result
            except Exception as error:
                self._failing = True
                if not self._warned:
                    self._warned = True
                    self._warn(
                        f"{self._where} does not take records ({reason_of(error)}); training goes "
                        "on, and they are written when it answers again"
                    )
                if self._given_up.wait(_SECONDS_BETWEEN_RETRIES):
                    raise _GivenUp from error
