"""One driver per sweep: who is refused, and whose lock is only what is left of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import HOLD

from trainables.errors import InputError
from tuning.session.runner import run_sweep
from tuning.storage import driver_lock
from tuning.storage.driver_lock import HOLDER_FILE, sole_driver


@pytest.fixture
def other_driver(tmp_path: Path):
    """Another process that holds the lock of the sweep in ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(10)


def test_a_second_driver_is_told_who_the_first_one_is(other_driver, tmp_path):
    who = f"sweep s is being run by process {other_driver.pid} on {socket.gethostname()}"
    with pytest.raises(InputError, match=who), sole_driver("s", tmp_path):
        pass


def test_the_lock_of_a_killed_driver_is_free_at_once(other_driver, tmp_path):
    other_driver.kill()
    other_driver.wait(10)
    assert (tmp_path / HOLDER_FILE).exists()
    with sole_driver("s", tmp_path):
        assert json.loads((tmp_path / HOLDER_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / HOLDER_FILE).exists()


def test_a_living_driver_counts_where_locks_do_not_work(other_driver, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_lock, "LOCK_FILE", "another.lock")
    with pytest.raises(InputError, match=f"process {other_driver.pid}"), sole_driver("s", tmp_path):
        pass


def test_a_process_that_took_over_the_number_is_no_driver(other_driver, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_lock, "LOCK_FILE", "another.lock")
    holder = json.loads((tmp_path / HOLDER_FILE).read_text())
    (tmp_path / HOLDER_FILE).write_text(json.dumps({**holder, "process_started": 1.0}))
    with sole_driver("s", tmp_path):
        pass


@pytest.mark.parametrize(("seconds_ago", "is_refused"), [(5, True), (300, False)])
def test_a_driver_on_another_host_is_alive_while_it_gives_signs(tmp_path, seconds_ago, is_refused):
    holder = tmp_path / HOLDER_FILE
    holder.write_text(json.dumps({"host": "elsewhere", "pid": 42, "process_started": 7.0}))
    now = holder.stat().st_mtime
    os.utime(holder, (now - seconds_ago, now - seconds_ago))
    if is_refused:
        with (
            pytest.raises(InputError, match="process 42 on elsewhere, which gave a sign"),
            sole_driver("s", tmp_path),
        ):
            pass
    else:
        with sole_driver("s", tmp_path):
            pass


def test_a_driver_gives_signs(tmp_path, monkeypatch):
    monkeypatch.setattr(driver_lock, "SECONDS_BETWEEN_SIGNS", 0.02)
    with sole_driver("s", tmp_path):
        holder = tmp_path / HOLDER_FILE
        os.utime(holder, (0, 0))
        for _ in range(500):
            if holder.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert holder.stat().st_mtime > 0


def test_a_damaged_holder_file_stops_nobody(tmp_path):
    (tmp_path / HOLDER_FILE).write_text("{")
    with sole_driver("s", tmp_path):
        pass


def test_a_sweep_that_is_run_is_not_retrained(monkeypatch, capsys, toy_sweep, view):
    from tuning.command_line.cli import main

    sweep = toy_sweep(trials=2)
    run_sweep(sweep, view)
    monkeypatch.setattr(sys, "argv", ["thaw", "retrain", "toy"])
    with sole_driver("toy", sweep.folder), pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert f"sweep toy is being run by process {os.getpid()}" in capsys.readouterr().err
