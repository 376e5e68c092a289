"""Follows a sweep's record in a thread, and has what happens written somewhere in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Protocol, TypeVar

from tuning.record.events import Event, Record
from tuning.tracking.mlflow_client import reason_of

_SECONDS_BETWEEN_BATCHES = 1.0
_SECONDS_BETWEEN_RETRIES = 5.0
# How long the end of a sweep waits for MLflow while it answers, and while it does not.
_SECONDS_TO_FLUSH, _SECONDS_TO_FLUSH_FAILING = 120.0, 12.0
_SECONDS_WAITED_WITHOUT_A_WORD = 6.0  # its import takes half of that

Result = TypeVar("Result")


class _GivenUp(Exception):
    """The sweep has ended and MLflow is still away."""


class Writer(Protocol):
    """Writes a record somewhere. Each call may be repeated after it failed half-way."""

    def open(self) -> None: ...

    def write(self, events: Sequence[Event]) -> None: ...


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
        around: AbstractContextManager[None] | None = None,
    ) -> None:
        """Follow ``record``.

        Args:
            name: this and ``where`` say in messages what is written to.
            around: entered by ``start``, and left at the end of ``close``.
        """
        self._record = record
        self._make_writer = make_writer
        self._warn = warn
        self._name = name
        self._where = where
        self._around = around or nullcontext()
        self._meanwhile = ExitStack()
        self._unwritten: deque[Event] = deque()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._failing = False  # whether the latest attempt failed
        self._warned = False
        self._failure: str | None = None

    def start(self) -> None:
        """Begin to follow the record. What it holds already and is not written is written first."""
        self._meanwhile.enter_context(self._around)
        self._record.listen(self._follow)
        self._thread.start()

    def _follow(self, event: Event) -> None:
        if event["event"] != "mlflow_run":  # the writer's own
            self._unwritten.append(event)

    def close(self) -> bool:
        """Write what is left; False if that is not taken, or taken too slowly."""
        self._closing.set()
        started, told = time.monotonic(), False
        with self._meanwhile:
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
            is_last = False
            while not is_last:
                is_last = self._closing.wait(_SECONDS_BETWEEN_BATCHES)
                events = [self._unwritten.popleft() for _ in range(len(self._unwritten))]
                if events:
                    self._patiently(partial(writer.write, events))
        except _GivenUp:
            return
        except Exception as error:
            self._failure = f"{type(error).__name__}: {error}"
            self._warn(f"{self._name}: {self._failure}")

    def _patiently(self, action: Callable[[], Result]) -> Result:
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
