"""A sweep during which something is killed again and again, and what is left of it in the end.

    uv run python benchmarks/soak.py --trials 60 --kills 20 --seed 0

Killed, at seeded moments: worker processes, the whole Ray (node manager and control store), the
driver, and the MLflow server, which is started again after some seconds. A driver that has ended,
or whose MLflow was not back in time, is followed by ``thaw resume``. Ends with 1 if anything is
lost, doubled or not what was recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from processes import process_tree
from soak_check import check_disk, check_mlflow, check_record, check_study
from soak_training import write_data

from tuning.record.events import Event, read_events
from tuning.storage.saved_sweeps import open_sweep

HERE = Path(__file__).parent
THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")
NAME, TRAINING = "soak", "soak_training.py"
# Of ten kills. A killed driver or Ray costs a start of Ray: the cheap ones are more.
DECK = (
    *("driver", "worker", "mlflow", "worker", "ray"),
    *("worker", "worker", "mlflow", "worker", "worker"),
)
# The title of its process, at rest and within ``step``
TRIAL_ACTORS = ("ray::TrialActor", "ray::ResourceTrainable")
RAY_PROCESSES = {"raylet", "gcs_server"}


@dataclass
class Soak:
    """What runs: the sweep's driver and the MLflow server."""

    folder: Path
    n_trials: int
    port: int
    epoch_seconds: float = 1.5
    driver: subprocess.Popen | None = None
    server: subprocess.Popen | None = None
    seen: dict[int, int] = field(default_factory=dict)  # process id -> birth, of all of the tree
    n_drivers: int = 0

    @property
    def sweep_folder(self) -> Path:
        return self.folder / "sweeps" / NAME

    def events(self) -> list[Event]:
        return list(read_events(self.sweep_folder))

    def start_server(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers"]
        store = ["1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        self.server = subprocess.Popen(
            [*command, *store, "--port", str(self.port)],
            cwd=self.folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_for_server(self) -> None:
        for _ in range(600):
            with suppress(OSError):
                urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2)
                return
            time.sleep(0.2)
        raise RuntimeError("the MLflow server did not start within two minutes")

    def start_driver(self) -> None:
        arguments = ["resume", NAME]
        if self.n_drivers == 0 or not (self.sweep_folder / "sweep.json").exists():
            data = self.folder / "digits.npz"
            arguments = ["sweep", str(self.folder / TRAINING), "--name", NAME, "--set"]
            arguments += [f"data={data}", "--set"]
            arguments += [
                f"epoch_seconds={self.epoch_seconds}",
                "--trials",
                str(self.n_trials),
                "--concurrency",
                "2",
            ]
            arguments += ["--metric", "val_accuracy", "--cpus-per-trial", "0.5"]
            arguments += ["--tracking-uri", f"http://127.0.0.1:{self.port}"]
        self.n_drivers += 1
        log = (self.folder / f"driver-{self.n_drivers}.log").open("w")
        self.driver = subprocess.Popen(
            [THAW, *arguments],
            cwd=self.folder,
            env={**os.environ, "THAW_CACHE": str(self.folder / "cache")},
            start_new_session=True,
            stdout=log,
            stderr=log,
        )

    def driver_code(self) -> int | None:
        """How the driver has ended; None while it runs."""
        assert self.driver is not None
        return self.driver.poll()

    def lacks_records(self) -> bool:
        """Whether the driver has ended before MLflow was back, and said so."""
        said = (self.folder / f"driver-{self.n_drivers}.log").read_text()
        return f"MLflow lacks some of it; `thaw resume {NAME}` writes the rest" in said

    def look(self) -> dict[int, str]:
        """The driver's processes, by their names."""
        assert self.driver is not None
        tree = dict(process_tree(self.driver.pid))
        self.seen.update(tree)
        return {pid: _command(pid) for pid in tree}

    def close(self) -> None:
        """Kill what is left."""
        current = dict(process_tree(1))
        left = [pid for pid, born in self.seen.items() if born and current.get(pid) == born]
        servers = [] if self.server is None else [self.server.pid]
        for pid in left:
            _kill(pid)
        for pid in servers:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill(soak: Soak, kind: str, generator: random.Random) -> bool:
    """Kill something of that kind; False if there is none of it now."""
    processes = soak.look()
    assert soak.driver is not None
    if kind == "mlflow":
        assert soak.server is not None
        os.killpg(soak.server.pid, signal.SIGKILL)
        soak.server.wait()
        time.sleep(generator.uniform(1, 4))
        soak.start_server()
        return True
    victims = {
        "worker": [pid for pid, c in processes.items() if c.startswith(TRIAL_ACTORS)],
        "ray": [pid for pid, c in processes.items() if Path(c.split(" ")[0]).name in RAY_PROCESSES],
        "driver": [soak.driver.pid],
    }[kind]
    if kind == "worker":
        victims = generator.sample(sorted(victims), min(1, len(victims)))
    for pid in victims:
        _kill(pid)
    return bool(victims)


@dataclass
class Fault:
    """Something that was killed."""

    kind: str
    time: float  # seconds since the Unix epoch
    pids: frozenset[float]  # of the workers known by then
    seconds: float | None = None  # until training went on

    def look(self, epochs: list[Event]) -> None:
        """See whether what was killed trains again: another process than those known by then."""
        for event in reversed(epochs):
            if event["time"] <= self.time:
                return
            if self.kind == "mlflow" or event["metrics"]["pid"] not in self.pids:
                self.seconds = event["time"] - self.time


def run(soak: Soak, n_kills: int, seed: int) -> list[Fault]:
    """Run the sweep to its end under fire."""
    generator = random.Random(seed)
    deck = [DECK[number % len(DECK)] for number in range(n_kills)]
    generator.shuffle(deck)
    latest = 0.8 * soak.n_trials  # the last kill, in trials that have ended
    due = 0.0
    faults: list[Fault] = []
    while (code := soak.driver_code()) != 0 or soak.lacks_records():
        if code is not None:
            print(f"  driver {soak.n_drivers} ended with {code}", flush=True)
            if soak.n_drivers > 2 * n_kills:
                raise RuntimeError("the sweep can not be resumed")
            if code == 0:
                soak.wait_for_server()
            soak.start_driver()
        time.sleep(0.2)
        events = soak.events()
        epochs = [event for event in events if event["event"] == "epoch"]
        for fault in faults:
            if fault.seconds is None:
                fault.look(epochs)
        # Most that are frozen never go on, and all of those end together, after the last kill.
        ends = [e for e in events if e["event"] == "trial_ended" and e["state"] != "interrupted"]
        n_ended = len({event["trial"] for event in ends})
        if len(faults) < len(deck) and epochs and n_ended >= due:
            kind = deck[len(faults)]
            time.sleep(generator.uniform(0, 0.5))
            known = frozenset(event["metrics"]["pid"] for event in epochs)
            fault = Fault(kind, time.time(), known)
            if kill(soak, kind, generator):
                print(f"{n_ended} trials ended; killed: {kind}", flush=True)
                faults.append(fault)
                # What is left of the kills is spread over what is left of the trials.
                n_left = len(deck) - len(faults)
                due = n_ended + generator.uniform(0, 2 * max(0.0, latest - n_ended) / (n_left + 1))
    return faults


def report(soak: Soak, faults: list[Fault]) -> dict[str, Any]:
    """What the sweep has come to."""
    sweep = open_sweep(NAME, soak.folder / "sweeps")
    soak.wait_for_server()
    in_record, n_lost = check_record(sweep, soak.n_trials)
    in_mlflow, n_doubled = check_mlflow(sweep)
    seconds: dict[str, list[float]] = {}
    for fault in faults:
        if fault.seconds is not None:  # the sweep may end before a worker is needed again
            seconds.setdefault(fault.kind, []).append(fault.seconds)
    return {
        "faults_survived": len(faults),
        "faults": dict(Counter(fault.kind for fault in faults)),
        "trials_lost": n_lost,
        "runs_doubled": n_doubled,
        "seconds_lost_per_fault": {k: round(statistics.median(s), 1) for k, s in seconds.items()},
        "drivers": soak.n_drivers,
        "wrong": in_record + in_mlflow + check_study(sweep) + check_disk(sweep),
    }


def soak_sweep(n_trials: int, n_kills: int, seed: int, epoch_seconds: float) -> dict[str, Any]:
    """Run a sweep under fire; what came of it, as ``report`` has it."""
    with tempfile.TemporaryDirectory(prefix="thaw-soak-", ignore_cleanup_errors=True) as folder:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        soak = Soak(Path(folder), n_trials, port, epoch_seconds)
        write_data(soak.folder / "digits.npz")
        # Outside of the repository, which may be worked on meanwhile
        shutil.copy(HERE / TRAINING, soak.folder)
        try:
            soak.start_server()
            soak.wait_for_server()
            soak.start_driver()
            return report(soak, run(soak, n_kills, seed))
        except BaseException:
            for log in sorted(soak.folder.glob("driver-*.log")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            raise
        finally:
            soak.close()


def main() -> None:
    """Soak; print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch-seconds", type=float, default=1.5, help="five to a trial")
    options = parser.parse_args()
    document = soak_sweep(options.trials, options.kills, options.seed, options.epoch_seconds)
    print(json.dumps(document, indent=1))
    if document["wrong"] or document["faults_survived"] < options.kills:
        sys.exit(1)


if __name__ == "__main__":
    main()
