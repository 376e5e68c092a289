"""What many tests share beside fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import ENVIRONMENT

from tuning.control.confirm import Confirmations
from tuning.control.controller import Controller
from tuning.control.trials import Trials
from tuning.record.events import Event, Record
from tuning.record.resources import Resources
from tuning.record.sweep import Sweep

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
BENCHMARKS = ROOT / "benchmarks"
TOY_SPACE = str(SUPPORT / "toy_space.py")


class RecordingView:
    """Remembers what a person would have been shown."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.events: list[Event] = []

    def say(self, message: str) -> None:
        self.messages.append(message)

    def begin(self, sweep, history, n_trials) -> None:
        pass

    def update(self, event: Event) -> None:
        self.events.append(event)

    def end(self) -> None:
        pass


@contextmanager
def sole_ray() -> Iterator[None]:
    """One local Ray for all sweeps meanwhile: starting it is most of a test's time.

    Its workers can reach the S3 server of these tests.
    """
    import ray

    from tuning.engines import ray_start

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with ray_start.agents_may_start_slowly():
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    shutdown, ray_start.disconnect = ray_start.disconnect, lambda: None
    yield
    ray_start.disconnect = shutdown
    ray.shutdown()


def reopened(sweep: Sweep, **changes) -> Sweep:
    """The sweep as ``thaw resume`` would find it, with some of it changed."""
    from tuning.storage.saved_sweeps import open_sweep

    return replace(open_sweep(str(sweep.folder), sweep.folder.parent), **changes)


class InterruptingView:
    """Presses Ctrl-C in the middle of a trial."""

    def __init__(self, after_epochs: int) -> None:
        self._epochs_left = after_epochs

    def say(self, message):
        pass

    def begin(self, sweep, history, n_trials):
        pass

    def update(self, event):
        if event["event"] == "epoch":
            self._epochs_left -= 1
            if self._epochs_left == 0:
                raise KeyboardInterrupt

    def end(self):
        pass


HOLD = """
import sys, time
from pathlib import Path
from tuning.storage.driver_lock import sole_driver
with sole_driver("s", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


OWN = str(SUPPORT / "sampler_file.py")


def sweep_controller(sweep: Sweep, record: Record, resources: Resources, **options) -> Controller:
    """A controller as a sitting of a sweep has it."""
    trials = Trials(sweep, record)
    confirmations = Confirmations(sweep, record, trials)
    kinds = {"trial": trials, "confirmation": confirmations}
    return Controller(sweep, record, resources, kinds, **options)
