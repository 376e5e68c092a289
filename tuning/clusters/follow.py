"""Shows a sweep that runs on a cluster as if it ran here."""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.errors import RunFailed
from tuning.clusters.dashboard import Dashboard
from tuning.clusters.dashboard_http import Unreachable
from tuning.clusters.sent_sweeps import is_of_ray, read_sweep, shown
from tuning.clusters.submission import has_ended, jobs_of, log_file, newest_job
from tuning.clusters.supervisor import PREFIX
from tuning.control.view import View
from tuning.record.events import EVENTS_FILE, SweepHistory

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_BETWEEN_QUESTIONS = 2.0  # to the cluster, how the job stands
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
        stream = self._dashboard.open_file(self._file, follow=True)
        if stream is None:
            return
        n_to_skip = self._n_seen
        with stream:
            while not self._is_closed.is_set() and (some := self._dashboard.read_some(stream)):
                new = some[n_to_skip:]
                n_to_skip -= len(some) - len(new)
                self._n_seen += len(new)
                *lines, self._begun = (self._begun + new).split(b"\n")
                for line in lines:
                    self._lines.put(line.decode(errors="replace"))


class Follower:
    """Follows one sweep, over as many jobs as it takes."""

    def __init__(self, dashboard: Dashboard, name: str, view: View) -> None:
        self._dashboard = dashboard
        self._name = name
        self._view = view
        self._history: SweepHistory | None = None  # once it has begun
        self._events: Tail | None = None
        self._answered = time.monotonic()

    def follow(self) -> JobDetails:
        """Show what happens until the sweep has ended; returns its last job.

        Raises:
            InputError: the cluster knows no such sweep.
            RunFailed: the cluster is silent for a minute.
        """
        job = jobs_of(self._dashboard, self._name)[-1]
        try:
            while True:
                self._follow_job(job)
                newest = newest_job(self._dashboard, self._name)
                if newest.submission_id == job.submission_id:
                    return newest
                job = newest
        finally:
            if self._events is not None:
                self._events.close()
            if self._history is not None:
                self._view.end()

    def _follow_job(self, job: JobDetails) -> None:
        log = Tail(self._dashboard, log_file(job.submission_id))
        try:
            asked = -_SECONDS_BETWEEN_QUESTIONS
            has_ended = False
            while not has_ended:
                if time.monotonic() - asked >= _SECONDS_BETWEEN_QUESTIONS:
                    has_ended = self._ask(job)
                    asked = time.monotonic()
                self._show(log)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            for _ in range(4):  # what is still on its way
                self._show(log)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            log.close()

    def _ask(self, job: JobDetails) -> bool:
        """Whether the job has ended; tries to begin, while that has not happened."""
        try:
            if self._history is None:
                self._begin()
            is_over = has_ended(self._dashboard, job)
            self._answered = time.monotonic()
            return is_over
        except Unreachable:
            if time.monotonic() - self._answered > _SECONDS_OF_SILENCE:
                raise
            return False

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

    def _show(self, log: Tail) -> None:
        """The driver's own words until the sweep has begun; then its events, and our supervisor."""
        for line in log.lines():
            is_wanted = self._history is None or line.startswith(PREFIX)
            if is_wanted and not is_of_ray(line):
                self._view.say(line)
        if self._events is not None and self._history is not None:
            for line in self._events.lines():
                event = json.loads(line)
                self._history.apply(event)
                self._view.update(event)


def print_log(dashboard: Dashboard, name: str, *, follow: bool) -> Iterator[str]:
    """The lines that the jobs of a sweep have printed; with ``follow``, until the sweep has ended.

    Raises:
        InputError: the cluster knows no such sweep.
    """
    *earlier, newest = jobs_of(dashboard, name)
    for job in earlier if follow else [*earlier, newest]:
        yield from dashboard.log(job.submission_id)
    while follow:
        yield from _follow_log(dashboard, newest)
        last, newest = newest, newest_job(dashboard, name)
        if newest.submission_id == last.submission_id:
            return


def _follow_log(dashboard: Dashboard, job: JobDetails) -> Iterator[str]:
    tail = Tail(dashboard, log_file(job.submission_id))
    try:
        while not has_ended(dashboard, job):
            yield from tail.lines()
            time.sleep(1.0)
        time.sleep(2.0)  # what is still on its way
        yield from tail.lines()
    finally:
        tail.close()
