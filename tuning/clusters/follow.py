"""Shows a sweep that runs on a cluster as if it ran here."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.errors import RunFailed
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.dashboard_http import Unreachable
from tuning.clusters.sent_sweeps import is_of_ray, read_sweep
from tuning.clusters.submission import has_ended, jobs_of, log_file, newest_job
from tuning.clusters.supervisor import PREFIX
from tuning.clusters.watcher import shown
from tuning.control.view import View
from tuning.record.events import EVENTS_FILE, SweepHistory

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_FOR_THE_REST = 2.0  # that may be on its way when a job has ended
_SECONDS_OF_SILENCE = 60.0  # of the cluster, before we give up


class Tail:
    """The lines of a growing file on the cluster's head, as they come.

    Ray's client can follow a job's log, but no other file, and starts from the beginning when the
    connection is lost. A sweep's events are such another file, so logs are followed the same way.
    """

    def __init__(self, dashboard: Dashboard, file: str, *, skip_bytes: int = 0) -> None:
        """Begin to read, in a thread that ends with ``close`` or with the process."""
        self._dashboard = dashboard
        self._file = file
        self._n_seen = skip_bytes
        self._begun = b""  # a line without its end
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._is_closed = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def lines(self) -> Iterator[str]:
        """Those that have come since the last call."""
        with suppress(queue.Empty):
            while True:
                yield self._lines.get_nowait()

    def close(self) -> None:
        self._is_closed.set()

    def _read(self) -> None:
        while not self._is_closed.is_set():
            with suppress(RunFailed):  # it may answer again: who waits for us finds out
                self._read_stream()
            self._is_closed.wait(1.0)

    def _read_stream(self) -> None:
        """Read until the connection ends, beginning after what has been seen."""
        n_to_skip = self._n_seen
        with self._dashboard.open_file(self._file, follow=True) as stream:
            while not self._is_closed.is_set() and (some := self._dashboard.read_some(stream)):
                new = some[n_to_skip:]
                n_to_skip -= len(some) - len(new)
                self._n_seen += len(new)
                *lines, self._begun = (self._begun + new).split(b"\n")
                for line in lines:
                    self._lines.put(line.decode(errors="replace"))


class _Display:
    """What a view is told of a sweep on a cluster."""

    def __init__(self, dashboard: Dashboard, name: str, view: View) -> None:
        self._dashboard = dashboard
        self._name = name
        self._view = view
        self._history: SweepHistory | None = None  # once it has begun
        self._events: Tail | None = None

    def look(self, new_lines: Iterable[str]) -> None:
        """Show the driver's output until the sweep has begun; then its events and restarts."""
        if self._history is None:
            with suppress(Unreachable):  # the caller, who looks again and again, finds out
                self._begin()
        for line in new_lines:
            is_wanted = self._history is None or line.startswith(PREFIX)
            if is_wanted and not is_of_ray(line):
                self._view.say(line)
        if self._events is not None and self._history is not None:
            for line in self._events.lines():
                event = json.loads(line)
                self._history.apply(event)
                self._view.update(event)

    def _begin(self) -> None:
        with tempfile.TemporaryDirectory(prefix="thaw-follow-") as folder:
            place = Path(folder) / self._name
            found = read_sweep(self._dashboard, self._name, place)
            if found is None:
                return
            content = (place / EVENTS_FILE).read_bytes()
        sweep, self._history = found
        self._view.begin(sweep, self._history, sweep.trials)
        n_whole = content.rfind(b"\n") + 1
        self._events = Tail(self._dashboard, shown(self._name, EVENTS_FILE), skip_bytes=n_whole)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        if self._history is not None:
            self._view.end()


def follow_sweep(dashboard: Dashboard, name: str, view: View) -> None:
    """Show what happens until the sweep has ended.

    Raises:
        InputError: the cluster knows no such sweep.
        RunFailed: the cluster is silent for a minute.
    """
    with closing(_Display(dashboard, name, view)) as display:
        for new_lines in _follow_jobs(dashboard, name, jobs_of(dashboard, name)[-1]):
            display.look(new_lines)


def print_log(dashboard: Dashboard, name: str, *, follow: bool) -> Iterator[str]:
    """The lines that the jobs of a sweep have printed; with ``follow``, until the sweep has ended.

    Raises:
        InputError: the cluster knows no such sweep.
        RunFailed: the cluster is silent, when it is followed for a minute.
    """
    *earlier, newest = jobs_of(dashboard, name)
    for job in earlier if follow else [*earlier, newest]:
        yield from dashboard.log(job.submission_id)
    if follow:
        for new_lines in _follow_jobs(dashboard, name, newest):
            yield from new_lines


def _follow_jobs(dashboard: Dashboard, name: str, job: JobDetails) -> Iterator[list[str]]:
    """What a sweep's job and those after it print, every second, until the sweep has ended."""
    while True:
        with closing(Tail(dashboard, log_file(job.submission_id))) as log:
            answered = time.monotonic()
            is_over = False
            while not is_over:
                yield list(log.lines())
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                try:
                    is_over = has_ended(dashboard, job)
                    answered = time.monotonic()
                except Unreachable:
                    if time.monotonic() - answered > _SECONDS_OF_SILENCE:
                        raise
            time.sleep(_SECONDS_FOR_THE_REST)
            yield list(log.lines())
        newest = newest_job(dashboard, name)
        if newest.submission_id == job.submission_id:
            return
        job = newest
