"""Simulated hosts on one machine, for `ray up` without a cloud: Linux, root, sshd, iproute2, rsync.

Each host has its own network address, process tree, host name, home, /tmp and /dev/shm, and an
sshd; its root is a writable layer over this machine's. They live in a world of their own: the
program that uses them runs itself anew inside fresh namespaces (``enter``), and everything that it
mounts, starts or plugs in there is gone when that process is, even if it is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
HOME = Path("/home/thaw")  # of the one user, root, on each of them
FILES = Path("/run/thaw-lab")
CONTROL_ADDRESS = "10.77.0.1"  # where the program itself is: the user's own machine
KEY = HOME / ".ssh" / "thaw_cluster"
_INSIDE = "THAW_LAB"
_NEEDED = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")


def why_not() -> str | None:
    """Why there can be no simulated hosts here; None if there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "simulated hosts need Linux and root"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"simulated hosts need {', '.join(missing)} (openssh-server, iproute2, rsync)"
    if ROOT.is_relative_to("/tmp") or ROOT.is_relative_to("/home"):
        return f"simulated hosts hide /tmp and /home, and {ROOT} is there"
    if subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"]).returncode != 0:
        return "this machine does not let new namespaces be made"
    return None


def is_inside() -> bool:
    """Whether this process runs in the world that ``enter`` makes."""
    return _INSIDE in os.environ


def enter(command: Sequence[str]) -> NoReturn:
    """Become ``command`` in namespaces of its own. All in there dies with this process."""
    os.environ[_INSIDE] = "1"
    os.execvp(
        "unshare",
        [
            "unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork",
            "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private",
            # bash waits for what loses its parent
            "bash", "-c", '"$@"; exit $?', "lab", *command,
        ],
    )  # fmt: skip


@dataclass(frozen=True)
class Host:
    """One simulated host."""

    name: str
    address: str
    process: subprocess.Popen[bytes]

    def run(self, command: str, timeout_seconds: float = 120, check: bool = True) -> str:
        """What a command prints there, over SSH."""
        result = subprocess.run(
            ["ssh", *SSH_OPTIONS, f"root@{self.address}", command],
            capture_output=True, text=True, timeout=timeout_seconds, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and result.returncode != 0:
            raise RuntimeError(f"{self.name}: {command!r} failed: {result.stderr[-2000:]}")
        return result.stdout

    def power_off(self) -> None:
        """End it at once, with all that runs on it; its disk is lost."""
        init = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        os.kill(int(init), 9)
        self.process.wait(30)


SSH_OPTIONS = (
    "-i", str(KEY), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30",
)  # fmt: skip


@contextmanager
def hosts(names: Sequence[str], bashrc: str, shared: bool = False) -> Iterator[list[Host]]:
    """Make this process's machine the user's own, and give it hosts that it reaches by SSH.

    Args:
        names: of the hosts; the first gets address 10.77.0.10, the next .11 and so on.
        bashrc: what each host's user has in ~/.bashrc.
        shared: give all of them a folder /shared.
    """
    assert is_inside()
    _furnish(bashrc, shared)
    _call("ip", "link", "set", "lo", "up")
    # The bridge gets a hardware address. Else it would take that of a host's cable, and change it
    # when that host goes; the other hosts would send to the old one for up to a minute.
    _call("ip", "link", "add", "switch", "address", "02:00:00:00:77:01", "type", "bridge")
    _call("ip", "addr", "add", f"{CONTROL_ADDRESS}/24", "dev", "switch")
    _call("ip", "link", "set", "switch", "up")
    made: list[Host] = []
    try:
        for number, name in enumerate(names):
            made.append(start_host(name, number))
        for host in made:
            _wait_for_ssh(host)
        yield made
    finally:
        for host in made:
            host.process.kill()


def _furnish(bashrc: str, shared: bool) -> None:
    """A /tmp, /run and home of our own, and what hosts need of us."""
    for folder in ("/tmp", "/run", "/home"):
        _call("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", folder)
    _call("hostname", "ctl")
    FILES.mkdir()
    (FILES / "bashrc").write_text(bashrc)
    if shared:
        (FILES / "shared").mkdir()
        Path("/shared").mkdir(exist_ok=True)
        _call("mount", "--bind", str(FILES / "shared"), "/shared")
    lines = Path("/etc/passwd").read_text().splitlines()
    mine = f"root:x:0:0:root:{HOME}:/bin/bash"
    (FILES / "passwd").write_text(
        "\n".join(mine if line.startswith("root:") else line for line in lines) + "\n"
    )
    _call("mount", "--bind", str(FILES / "passwd"), "/etc/passwd")  # ssh asks there for our home
    KEY.parent.mkdir(parents=True, mode=0o700)
    _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(KEY))
    shutil.copy(f"{KEY}.pub", FILES / "authorized_keys")
    os.environ["HOME"] = str(HOME)


def start_host(name: str, number: int) -> Host:
    """Start host ``number``, or start it again with an empty disk."""
    address = f"10.77.0.{10 + number}"
    with (FILES / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [
                "unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork",
                "--kill-child=SIGKILL", "--propagation", "private",
                "bash", str(Path(__file__).with_name("host_init.sh")), name, address, str(FILES),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    ours = os.readlink("/proc/self/ns/net")
    _until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != ours, 10, f"network of {name}")
    cable, inside = f"to-{name}", ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip"]
    _call("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns",
          str(process.pid))  # fmt: skip
    _call("ip", "link", "set", cable, "master", "switch", "up")
    _call(*inside, "link", "set", "lo", "up")
    _call(*inside, "addr", "add", f"{address}/24", "dev", "eth0")
    _call(*inside, "link", "set", "eth0", "up")
    _call(*inside, "route", "add", "default", "via", CONTROL_ADDRESS)
    return Host(name, address, process)


def _wait_for_ssh(host: Host) -> None:
    def answers() -> bool:
        if host.process.poll() is not None:
            raise RuntimeError((FILES / f"{host.name}.log").read_text())
        return subprocess.run(
            ["ssh", *SSH_OPTIONS, f"root@{host.address}", "true"],
            capture_output=True, stdin=subprocess.DEVNULL,
        ).returncode == 0  # fmt: skip

    _until(answers, 30, f"sshd of {host.name}")


def _call(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _until(holds, seconds: float, what: str) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.1)
