"""Fixtures that many tests share."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import TOY_SPACE, RecordingView
from leftovers import MARK, find_leftovers, take_folder
from ports import free_ports
from s3_server import ENVIRONMENT, bucket, one_s3_server, s3  # noqa: F401  fixtures
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.space_checks import prepare_data
from tuning.engines.ray_environment import prepare_ray
from tuning.record.sweep import Sweep
from tuning.session.runner import SweepResult, run_sweep

if "PYTEST_XDIST_WORKER" in os.environ:  # the other process needs the other core
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# MLflow starts uvicorn by its name, also where no environment is activated.
os.environ["PATH"] = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"

take_folder()
# A shell that starts something in the background has it ignore Ctrl-C, and its children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when Ray is imported, which a test may do first. Without it, under `uv run`, Ray starts each
# worker through uv, in an environment of its own.
prepare_ray()


@pytest.hookimpl(tryfirst=True)  # before what `-m` leaves out is decided
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for a server that takes seconds to start is long."""
    for item in items:
        if {"one_s3_server", "one_mlflow_server"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.long)


def _starts_ray(file: Path) -> bool:
    """Whether all of a file's tests do."""
    return "pytestmark = [pytest.mark.ray" in file.read_text()


class RayApart(LoadFileScheduling):
    """Shares the tests out by file: the first process takes those that start Ray, others the rest.

    Who is done with his own helps the others.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        takes_ray = node is self.nodes[0]
        for name in self.workqueue:
            if _starts_ray(self.config.rootpath / name) == takes_ray:
                self.workqueue.move_to_end(name, last=False)  # what is first is assigned
                break
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> RayApart:
    return RayApart(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if the tests left anything on this machine; said by the process that began."""
    if "PYTEST_XDIST_WORKER" in os.environ or MARK not in os.environ:
        return
    if left := find_leftovers():
        report = session.config.pluginmanager.get_plugin("terminalreporter")
        report.write_line("\nthe tests have left behind:\n  " + "\n  ".join(left), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through() -> Iterator[None]:
    """Every trial ends with a search for garbage: not in all that was imported, each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_neighbours_of_other_files() -> Iterator[None]:
    """A space's file finds the modules beside it, and none of that name from another test's."""
    before = list(sys.path)
    yield
    folders = tuple(f"{folder}{os.sep}" for folder in sys.path if folder not in before)
    sys.path[:] = before
    if folders:
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(folders):
                del sys.modules[name]


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: its migrations take seconds, so they are done once."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workplace(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with an MLflow database, and a cache folder of its own."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("tuning.tracking.follower._SECONDS_BETWEEN_BATCHES", 0.05)
    return tmp_path


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    return free_ports(1)[0]


@pytest.fixture
def view() -> RecordingView:
    return RecordingView()


@pytest.fixture
def toy_sweep(workplace: Path) -> Callable[..., Sweep]:
    """Makes sweeps over ``toy_space.py``, in this process unless told otherwise."""

    def make(*settings: str, **options) -> Sweep:
        defaults = {"name": "toy", "engine": "inprocess", "trials": 6, "metric": "value:max"}
        values = {**defaults, **options}
        return resolve(SweepOptions(space=TOY_SPACE, settings=settings, **values))

    return make


@pytest.fixture
def run(view: RecordingView) -> Callable[[Sweep], SweepResult]:
    def run_it(sweep: Sweep) -> SweepResult:
        prepared, notes = prepare_data(sweep)
        view.messages += notes
        return run_sweep(prepared, view)

    return run_it


@pytest.fixture
def tiny_digits(workplace: Path) -> Callable[..., Sweep]:
    """Makes sweeps over the real digits with a network small enough for a test."""

    def make(**options) -> Sweep:
        values = {"name": "digits", "engine": "inprocess", "trials": 2, **options}
        settings = [
            "model=squeezenet1_1",
            "image_size=32",
            "stem=standard",  # the small one costs 16 times as much
            "epochs=1",
            "batch_size=128",
            "freezing=head",
        ]
        return resolve(SweepOptions(space="digits", settings=settings, **values))

    return make


@pytest.fixture
def thaw(workplace, monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: (exit code, stdout, stderr)."""
    from tuning.command_line.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["thaw", *arguments])
        capfd.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return run
