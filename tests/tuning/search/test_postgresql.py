"""``--storage postgresql://…`` on a real server, where one is installed."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import InterruptingView, RecordingView, reopened
from ports import free_ports
from records import check_mirror, runs_of

from trainables.errors import InputError
from tuning.record.events import read_history
from tuning.record.sweep import SWEEP_FILE
from tuning.session.runner import run_sweep
from tuning.storage.saved_sweeps import save_sweep

PASSWORD = "not-to-be-shown"
USER = "thaw"


def _programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them off the path."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


PROGRAMS = _programs()
pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
pytestmark = [
    pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL server (initdb, pg_ctl) is found"),
    pytest.mark.long,
    pytest.mark.timeout(240),
]


@dataclass
class Server:
    """A server on the loopback interface, whose files are in a temporary folder."""

    folder: Path
    port: int
    user: str | None  # it refuses to run as root

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        assert PROGRAMS is not None
        command = [str(PROGRAMS / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(
            command,
            check=True,
            timeout=60,
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )

    def start(self) -> None:
        where = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", where, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not in pytest's folder, which only its owner may enter
    folder = Path(tempfile.mkdtemp(prefix="thaw-postgresql-"))
    (port,) = free_ports(1)
    (folder / "password").write_text(PASSWORD)
    user = None
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    server = Server(folder, port, user)
    server.run(
        "initdb",
        "-U",
        USER,
        "--auth=scram-sha-256",
        f"--pwfile={folder / 'password'}",
        "-N",
        "-E",
        "UTF8",  # of a bare environment it would be SQL_ASCII, which drivers refuse
    )
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def password(monkeypatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


def test_a_sweep_and_its_resume_are_kept_there(toy_sweep, run, view, server, password):
    sweep = toy_sweep("epochs=9", name="kept", trials=10, storage=server.url)
    first = RecordingView()
    interrupting = InterruptingView(after_epochs=20)
    interrupting.say = first.say
    assert run_sweep(sweep, interrupting).interrupted
    states = {trial.state for trial in read_history(sweep.folder).trials.values()}
    assert "interrupted" in states
    run(reopened(sweep))
    assert len(check_mirror(sweep)) == 10
    run(reopened(sweep, trials=12))
    assert len(check_mirror(sweep)) == 12
    with pytest.raises(InputError, match="has a study 'kept' already"):
        toy_sweep(name="kept", storage=server.url, sweeps_folder=sweep.folder / "elsewhere")
    shown = "\n".join([*view.messages, *first.messages, (sweep.folder / SWEEP_FILE).read_text()])
    assert server.url in shown
    assert PASSWORD not in shown
    told = json.dumps([each.data.to_dictionary() for each in runs_of(sweep).values()])
    assert PASSWORD not in told


def test_what_is_there_can_be_a_warm_start(toy_sweep, run, server, password):
    run(toy_sweep(name="earlier", trials=3, storage=server.url, scheduler="none"))
    url = server.url.replace("@", f":{PASSWORD}@")  # which is used once, and kept nowhere
    sweep = toy_sweep(name="later", warm_start=f"{url}#earlier")
    assert len(sweep.warm_start["trials"]) == 3
    save_sweep(sweep)
    assert PASSWORD not in (sweep.folder / SWEEP_FILE).read_text()
    with pytest.raises(InputError, match="name one after a #") as error:
        toy_sweep(name="never", warm_start=f"{url}#unknown")
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize("given", [None, "wrong"])
def test_a_missing_or_wrong_password_is_told_at_once(toy_sweep, server, monkeypatch, given):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", "/nowhere")
    if given:
        monkeypatch.setenv("PGPASSWORD", given)
    with pytest.raises(InputError, match=r"can not be used as a study's storage .*password"):
        toy_sweep(storage=server.url)


class StoppingView(RecordingView):
    """Stops the server in the second trial, and starts it again after the fifth has begun."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server, self.is_away = server, False

    def update(self, event) -> None:
        super().update(event)
        if event["event"] == "epoch" and (event["trial"], event["epoch"]) == (1, 2):
            self.server.stop()
            self.is_away = True
        elif event["event"] == "trial_started" and event["trial"] == 5:
            time.sleep(1)  # the mirror finds out
            self.server.start()
            self.is_away = False


def test_a_sweep_goes_on_while_the_server_is_away(toy_sweep, server, password, monkeypatch):
    monkeypatch.setattr("tuning.tracking.follower._SECONDS_BETWEEN_RETRIES", 0.3)
    sweep = toy_sweep(name="away", trials=8, storage=server.url, scheduler="none")
    view = StoppingView(server)
    run_sweep(sweep, view)
    assert not view.is_away
    assert sum("does not take records" in message for message in view.messages) == 1
    assert not any(PASSWORD in message for message in view.messages)
    assert len(check_mirror(sweep)) == 8
