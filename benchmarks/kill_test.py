"""Kills a sweep and its Ray three times with `kill -9`, and resumes it each time at once.

    uv run python benchmarks/kill_test.py --rounds 10 --load 6

Leave the checkout as it is meanwhile: a sweep whose code has changed is not resumed.

The whole process group is killed, at a seeded moment, so no process of it can say anything; the
next driver meets what is left of the last one. A round passes if the sweep ends with status 0
after its last resume, each driver that was not killed has said how it ended, and every trial is
in the record, the study and MLflow just once. `--victim` kills only a part of Ray, under a driver
that then has to notice it and say so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from processes import process_tree
from soak_check import check_mlflow, check_record, check_study

from tuning.record.events import read_events
from tuning.storage.saved_sweeps import open_sweep

THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")
NAME = "killed"
HOW_TO_GO_ON = f"thaw resume {NAME}"  # said after the end, by a process that outlives the driver
SETTINGS = ("model=resnet18", "image_size=8", "epochs=2", "batch_size=128", "freezing=head")
VICTIMS = ("group", "driver", "raylet", "gcs_server")
_SECONDS_OF_A_DRIVER = 400.0


def run_round(n_trials: int, n_kills: int, victim: str, generator: random.Random) -> dict[str, Any]:
    """Run one sweep to its end, killing it ``n_kills`` times; what came of it."""
    with tempfile.TemporaryDirectory(prefix="thaw-killed-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        drivers: list[dict[str, Any]] = []
        while not drivers or drivers[-1]["code"] != 0:
            if len(drivers) > 2 * n_kills + 1 or (drivers and drivers[-1]["code"] == 2):
                break  # refused: the checkout has been changed meanwhile
            due = None
            if len(drivers) < n_kills:  # in trials that have ended, the last before the last one
                due = n_trials * (len(drivers) + generator.uniform(0.2, 0.9)) / (n_kills + 1)
            drivers.append(_drive(place, n_trials, victim, due))
        wrong = [f"driver {n}: {line}" for n, each in enumerate(drivers) for line in _silent(each)]
        if drivers[-1]["code"] != 0:
            wrong.append("the sweep can not be resumed")
        else:
            sweep = open_sweep(NAME, place / "sweeps")
            wrong += check_record(sweep, n_trials)[0] + check_mlflow(sweep)[0] + check_study(sweep)
        return {"drivers": [each["code"] for each in drivers], "wrong": wrong}


def _silent(driver: dict[str, Any]) -> Iterator[str]:
    """What is wrong with how a driver ended: without a word, or without the way to go on."""
    if driver["code"] != 0 and HOW_TO_GO_ON not in driver["said"]:
        yield f"ended with {driver['code']} and said only {driver['said'][-500:]!r}"


def _drive(place: Path, n_trials: int, victim: str, due: float | None) -> dict[str, Any]:
    """Start or resume the sweep and kill ``victim`` when ``due`` trials have ended."""
    arguments = ["resume", NAME]
    if not (place / "sweeps" / NAME / "sweep.json").exists():
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        arguments = ["sweep", "digits", "--name", NAME, "--trials", str(n_trials), *settings]
        arguments += ["--cpus-per-trial", "0.5", "--concurrency", "2"]
    log = place / f"driver-{time.monotonic_ns()}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [THAW, *arguments],
            cwd=place,
            env={**os.environ, "THAW_CACHE": str(place / "cache")},
            start_new_session=True,
            stdout=output,
            stderr=output,
        )
    started, killed = time.monotonic(), None
    while process.poll() is None:
        time.sleep(0.1)
        if due is not None and killed is None and _n_ended(place) >= due:
            _kill(process.pid, victim)
            killed = time.monotonic()
        if time.monotonic() - started > _SECONDS_OF_A_DRIVER:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    ended = time.monotonic()
    while HOW_TO_GO_ON not in (said := log.read_text()) and time.monotonic() - ended < 5:
        time.sleep(0.05)
    took = None if killed is None else round(ended - killed, 1)
    print(f"  {arguments[0]}: {process.returncode}, {took} s after the kill", flush=True)
    return {"code": process.returncode, "said": said, "seconds_to_end": took}


def _n_ended(place: Path) -> int:
    with suppress(OSError):
        events = read_events(place / "sweeps" / NAME)
        return len({each["trial"] for each in events if each["event"] == "trial_ended"})
    return 0


def _kill(driver: int, victim: str) -> None:
    if victim == "group":
        os.killpg(driver, signal.SIGKILL)
        return
    for pid, _ in list(process_tree(driver)):
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if pid == driver if victim == "driver" else name == victim:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def load(n: int) -> Iterator[None]:
    """Have ``n`` processes do nothing as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Run the rounds; print what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load", type=int, default=0, help="busy processes beside it")
    parser.add_argument("--victim", choices=VICTIMS, default="group")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    n_wrong = 0
    with load(options.load):
        for number in range(options.rounds):
            document = run_round(options.trials, options.kills, options.victim, generator)
            print(json.dumps({"round": number, **document}), flush=True)
            n_wrong += bool(document["wrong"])
    sys.exit(min(n_wrong, 1))


if __name__ == "__main__":
    main()
