"""The simulated hosts that the programs in tests/lab use: they are apart, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.long
LAB = ROOT / "tests" / "lab"
sys.path.insert(0, str(LAB))

import hosts  # noqa: E402  (of tests/lab)

SECONDS = 100  # after which the program ends, and says where it was
PROGRAM = """
import faulthandler, os, sys, time
sys.path.insert(0, {lab!r})
import hosts
if not hosts.is_inside():
    hosts.enter([sys.executable, *sys.argv])
faulthandler.dump_traceback_later({seconds}, exit=True)
with hosts.hosts(["one", "two"], "export FROM_BASHRC=1\\n") as (one, two):
    print(one.run("hostname; cat ~/.bashrc; ls /proc | grep -c '^[0-9]'"))
    one.run("touch /tmp/mine /etc/mine")
    print(two.run("hostname; ls /tmp/mine /etc/mine 2>&1 | grep -c 'No such file'"))
    print(two.run("timeout 5 bash -c '</dev/tcp/10.77.0.10/22' && echo reached"), flush=True)
    if "--stay" in sys.argv:
        time.sleep(100)
    one.power_off()
    print(two.run("timeout 3 bash -c '</dev/tcp/10.77.0.10/22' 2>/dev/null || echo gone"))
"""


@pytest.fixture
def program() -> Iterator[Path]:
    if reason := hosts.why_not():
        pytest.skip(reason)
    path = Path("/var/tmp") / f"thaw-lab-{os.getpid()}.py"  # hosts hide /tmp
    path.write_text(PROGRAM.format(lab=str(LAB), seconds=SECONDS))
    yield path
    path.unlink()


MARK = f"THAW_LAB_TEST={os.getpid()}"


def environment() -> dict[str, str]:
    """Of the program; all that it starts on its hosts, but what SSH starts, inherits the mark."""
    name, value = MARK.split("=")
    return {**{k: v for k, v in os.environ.items() if k != "THAW_LAB"}, name: value}


def left_running() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if MARK.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_hosts_are_apart_and_reach_each_other(program):
    before = Path("/proc/mounts").read_text()
    result = subprocess.run(
        [sys.executable, program],
        capture_output=True, text=True, timeout=SECONDS + 10, env=environment(),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    words = result.stdout.split()
    assert words[:4] == ["one", "export", "FROM_BASHRC=1", words[3]]
    assert int(words[3]) < 15  # it sees its own processes alone
    assert words[4:] == ["two", "2", "reached", "gone"]
    assert Path("/proc/mounts").read_text() == before
    assert not Path("/etc/mine").exists()
    assert not left_running()


def test_nothing_is_left_when_the_program_is_killed(program):
    process = subprocess.Popen(
        [sys.executable, program, "--stay"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    while "reached" not in (line := process.stdout.readline()):
        assert line, "it ended before its hosts were up"
    assert len(left_running()) >= 4
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while left := left_running():
        assert time.monotonic() < until, left
        time.sleep(0.1)
