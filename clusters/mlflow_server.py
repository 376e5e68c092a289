"""MLflow on the head of a cluster: started by `ray up`, kept alive, ended with Ray.

    mlflow_server.py start [--host auto] [--port 5000] [--store auto] [--keep]
    mlflow_server.py wait | status | stop

``start`` may be said again: a server that runs with the same settings is left alone. It returns at
once; ``wait`` returns when the server answers. A process of its own, the keeper, starts the server
anew when it dies or no longer answers, and ends it when Ray has left this machine, so that nothing
stays behind after `ray down` (``--keep`` leaves it).

Everything is below ~/.thaw: runs and users in SQLite, artifacts in a folder, both served by the
server alone, which asks for a name and password. ~/.thaw/cluster.env (mode 600) tells the cluster's
nodes where it is and how to get in, as the user ``thaw``, who is no administrator.

Standard library only; MLflow itself is the environment's that runs this.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from mlflow_settings import (
    FOLDER,
    USER,
    is_healthy,
    make_settings,
    make_user,
    server_command,
    server_environment,
    write_cluster_env,
)

LOCK, SETTINGS, READY = FOLDER / "lock", FOLDER / "settings.json", FOLDER / "ready"
LOG, SERVER = FOLDER / "server.log", FOLDER / "server.pid"

SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_TO_START = 240.0  # with the database's migrations: 39 s measured on 2 busy cores
N_FAILED_LOOKS = 6  # in a row: the server hangs
SECONDS_WITHOUT_RAY = float(os.environ.get("THAW_SECONDS_WITHOUT_RAY", "120"))  # `ray up` restarts
MOST_SECONDS_BETWEEN_STARTS = 30.0
RAY_HEAD = b"--gcs_server_port=6379"  # as the cluster files start it; a Ray of a sweep's own has 0
LOG_BYTES = 20_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mlflow_server.py", description="MLflow on the head.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--host", default="auto", help="auto: the head's private address")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--store", default="auto", help="postgresql://USER@HOST/DATABASE, or auto")
    parser.add_argument("--keep", action="store_true", help="also after Ray has ended")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.chmod(0o700)
    return COMMANDS[options.command](options)


def start(options: argparse.Namespace) -> int:
    """Start the keeper unless it runs with these settings already."""
    settings = make_settings(options)
    if _keeper_runs():
        if json.loads(SETTINGS.read_text()) == settings:
            print(f"MLflow is at {settings['url']} already")
            return 0
        stop(options)
    READY.unlink(missing_ok=True)
    SETTINGS.write_text(json.dumps(settings))
    write_cluster_env(settings)
    with LOG.open("ab") as log:
        subprocess.Popen(
            [sys.executable, __file__, "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ray's terminal hangs up on what it started there
        )
    _until(_keeper_runs, 20)
    print(f"MLflow is being started at {settings['url']}; its log is {LOG}")
    return 0


def wait(options: argparse.Namespace) -> int:
    """Return when the server answers; 1 with the end of its log if it does not."""
    if _until(lambda: READY.exists() or not _keeper_runs(), SECONDS_TO_START) and READY.exists():
        print(f"MLflow answers at {READY.read_text()}")
        return 0
    print(f"MLflow does not answer; the end of {LOG}:", file=sys.stderr)
    if LOG.exists():
        print(*LOG.read_text(errors="replace").splitlines()[-20:], sep="\n", file=sys.stderr)
    return 1


def status(options: argparse.Namespace) -> int:
    """Where the server is: 0 if it answers, else 1."""
    if _keeper_runs() and READY.exists() and is_healthy(READY.read_text()):
        print(READY.read_text())
        return 0
    print("MLflow does not run", file=sys.stderr)
    return 1


def stop(options: argparse.Namespace) -> int:
    """End keeper and server; no error if there is none."""
    if _keeper_runs():
        with suppress(ValueError, ProcessLookupError):
            os.kill(int(LOCK.read_text()), signal.SIGTERM)
        _until(lambda: not _keeper_runs(), 30)
    return 0


def run(options: argparse.Namespace) -> int:
    """Be the keeper; ``start`` does this in a process of its own."""
    with LOCK.open("a+") as lock:
        if not _until(lambda: _lock(lock), 5):  # who only looks holds it for a moment, too
            return 0  # another was quicker
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _Keeper(json.loads(SETTINGS.read_text())).run()
    return 0


class _Keeper:
    """Starts the server, and again, until it is told to end or Ray is gone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._server: subprocess.Popen[bytes] | None = None
        self._ray_seen = time.monotonic()
        self._ended = False

    def run(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        pause = 1.0
        while self._goes_on():
            began = time.monotonic()
            self._start_server()
            self._watch()
            self._stop_server()
            lived = time.monotonic() - began
            pause = 1.0 if lived > 60 else min(2 * pause, MOST_SECONDS_BETWEEN_STARTS)
            if self._goes_on():
                _say(f"MLflow ended after {lived:.0f} s; starting it again in {pause:.0f} s")
                self._sleep(pause)
        _say("MLflow has been ended")

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ended = True

    def _goes_on(self) -> bool:
        if _ray_runs():
            self._ray_seen = time.monotonic()
        gone = time.monotonic() - self._ray_seen > SECONDS_WITHOUT_RAY
        return not self._ended and (self._settings["keep"] or not gone)

    def _start_server(self) -> None:
        _end_leftover()
        if LOG.stat().st_size > LOG_BYTES:
            os.truncate(LOG, 0)
        self._server = subprocess.Popen(
            server_command(self._settings), env=server_environment(self._settings),
            stdin=subprocess.DEVNULL, start_new_session=True, cwd=FOLDER,
        )  # fmt: skip
        SERVER.write_text(str(self._server.pid))

    def _watch(self) -> None:
        """Return when the server has died, hangs, or is to end."""
        assert self._server is not None
        began, n_failed, ready = time.monotonic(), 0, False
        while self._server.poll() is None and self._goes_on():
            if is_healthy(self._settings["url"]):
                n_failed = 0
                if not ready:
                    ready = self._announce()
            elif ready or time.monotonic() - began > SECONDS_TO_START:
                n_failed += 1
                if n_failed >= N_FAILED_LOOKS:
                    _say("MLflow no longer answers")
                    return
            self._sleep(SECONDS_BETWEEN_LOOKS if ready else 0.5)

    def _announce(self) -> bool:
        """Say that the server is there, once the nodes' user can log in."""
        try:
            make_user(self._settings["url"])
        except (OSError, ValueError) as error:
            _say(f"user {USER} could not be made: {error}")
            return False
        READY.write_text(self._settings["url"])
        return True

    def _stop_server(self) -> None:
        """End the server and what it has started; its own end alone leaves those on the port."""
        READY.unlink(missing_ok=True)
        assert self._server is not None
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._server.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(5)
        SERVER.unlink(missing_ok=True)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._ended and time.monotonic() < until:
            time.sleep(0.2)


def _end_leftover() -> None:
    """End a server whose keeper was killed: it would keep the port."""
    with suppress(OSError, ValueError):
        leader = int(SERVER.read_text())
        if os.getpgid(leader) == leader and b"mlflow" in _command_line(leader):
            os.killpg(leader, signal.SIGKILL)


def _command_line(pid: int) -> bytes:
    """Of a process; where there is no /proc it can not be told, and is empty."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def _keeper_runs() -> bool:
    """Whether its lock is held, which ends with its process however that ends."""
    if not LOCK.exists():
        return False
    with LOCK.open("r") as lock:
        return not _lock(lock)


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False


def _ray_runs() -> bool:
    """Whether this user's cluster has its head here; where there is no /proc, always."""
    processes = list(Path("/proc").glob("[0-9]*"))
    for process in processes:
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name != "gcs_server" or process.stat().st_uid != os.getuid():
                continue
            if RAY_HEAD in (process / "cmdline").read_bytes().split(b"\0"):
                return True
    return not processes


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _say(message: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}", flush=True)


COMMANDS = {"start": start, "wait": wait, "status": status, "stop": stop, "run": run}

if __name__ == "__main__":
    sys.exit(main())
