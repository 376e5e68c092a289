"""DEHB (arXiv:2105.09821) as a peer, in an environment of its own.

Its package wants NumPy below 2 and brings Dask: it can not share Thaw's environment. uv makes it
one, in which ``contenders/dehb_server.py`` asks and tells; here its unit vectors become points.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal

from search_simulator import Leg

from search_spaces.domains import Choice, Domain, SearchSpace

DEHB_VERSION = "0.1.2"
_SERVER = Path(__file__).parent / "contenders" / "dehb_server.py"
_DIVERGED = 1e9  # worse than any value; infinity would count as not yet evaluated


def why_missing() -> str | None:
    """Why DEHB can not be run here, or None."""
    return None if shutil.which("uv") else "needs the command uv, to make its own environment"


class DehbSearch:
    """The package's ask and tell with its default settings, from one epoch up.

    A promoted configuration goes on where it was left, as its documentation allows; the package
    itself would train it anew.
    """

    def __init__(
        self,
        space: SearchSpace,
        direction: Literal["max", "min"],
        epochs: int,
        n_workers: int,
        budget_epochs: int,
        seed: int,
    ) -> None:
        self._space = space
        self._sign = -1.0 if direction == "max" else 1.0
        self._epochs = epochs
        settings = {"dimensions": len(space.domains), "max_fidelity": epochs, "seed": seed}
        _request(make=settings)
        self._jobs: dict[int, tuple[int, int]] = {}  # running trial -> (its job, its last epoch)
        self._trials: dict[int, int] = {}  # DEHB's configuration -> the trial that trains it
        self._reached: list[int] = []  # trial -> epochs done
        self._ended: set[int] = set()  # trials that diverged

    def next(self) -> Leg:
        job = _request(ask=True)
        until = min(max(round(job["fidelity"]), 1), self._epochs)
        trial = self._trials.get(job["config_id"])
        taken = trial is None or trial in self._jobs or trial in self._ended
        if trial is None or taken or self._reached[trial] >= until:
            trial = len(self._reached)  # new, or the same configuration once more
            self._trials[job["config_id"]] = trial
            self._reached.append(0)
        self._jobs[trial] = (job["job"], until)
        return Leg(trial, _point(self._space, job["vector"]), until)

    def observe(self, trial: int, epoch: int, value: float, seconds: float) -> bool:
        self._reached[trial] = epoch
        job, until = self._jobs[trial]
        diverged = math.isnan(value)
        if epoch < until and not diverged:
            return False
        del self._jobs[trial]
        if diverged:
            self._ended.add(trial)
        fitness = _DIVERGED if diverged else self._sign * value
        _request(tell={"job": job, "fitness": fitness, "cost": float(until)})
        return True


def _point(space: SearchSpace, vector: list[float]) -> dict[str, Any]:
    """What the unit vector means; coordinates of inactive domains mean nothing."""
    point: dict[str, Any] = {}
    for share, (name, domain) in zip(vector, space.domains.items(), strict=True):
        if space.is_active(name, point):
            point[name] = _value(domain, share)
    return point


def _value(domain: Domain, share: float) -> Any:
    """Equal parts of [0, 1] for options and whole numbers, the domain's own scale for the rest."""
    if isinstance(domain, Choice):
        return domain.options[min(int(share * len(domain.options)), len(domain.options) - 1)]
    whole = isinstance(domain.low, int) or domain.step is not None
    step = (domain.step or 1) if whole else 0
    low, high = domain.low - step / 2, domain.high + step / 2
    if domain.log:
        number = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        number = low + share * (high - low)
    if whole:
        number = domain.low + step * round((number - domain.low) / step)
    return min(max(number, domain.low), domain.high)


def _request(**message: Any) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(message) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    if not answer:
        raise RuntimeError(f"DEHB's process ended with {server.wait()}; its messages are above")
    return json.loads(answer)


@cache
def _server() -> subprocess.Popen[str]:
    """One for this process, which ends with it: it reads until its input is closed."""
    command = ["uv", "run", "--quiet", "--no-project", "--with", f"dehb=={DEHB_VERSION}"]
    return subprocess.Popen(
        [*command, "python", str(_SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
