"""What the driver's own work costs as trials add up, and with 1,000 trials at once.

    uv run python benchmarks/scale.py

No training, no Ray, no MLflow: the controller, its record on the disk and the search, which is all
that Thaw itself does on the control loop. The search space is conditional and has eight domains.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from figures import Figure

from search_spaces.domains import Choice, Float, Int, SearchSpace
from tuning.control.controller import Controller
from tuning.control.trials import Trials
from tuning.hosting.assignment import EpochResult, Outcome
from tuning.record.events import Record
from tuning.record.resources import Resources
from tuning.record.sweep import Sweep

N_EPOCHS = 10  # of a finished trial
SIZES = (100, 1_000, 10_000)
# Timed at each size: enough for a 99th percentile of the default, and few of Optuna's TPE, which
# takes a quarter of a second at 10,000 trials.
N_PROPOSALS = {"curves": 200, "tpe": 10}
N_AT_ONCE, N_SECONDS, N_EPOCHS_AT_ONCE = 1_000, 120, 100


# searcher -> the scheduler that it is timed with; the first pair is what a sweep has by default
SCHEDULERS = {"curves": "freeze-thaw", "tpe": "asha"}
Point = dict[str, Any]

FINE_TUNING = SearchSpace(
    name="synthetic",
    domains={
        "learning_rate": Float(1e-5, 1e-1, log=True),
        "weight_decay": Float(1e-6, 1e-1, log=True),
        "batch_size": Choice(16, 32, 64, 128),
        "dropout": Float(0.0, 0.5),
        "freezing": Choice("none", "head", "first_k", "gradual"),
        "frozen_blocks": Int(1, 6, when={"freezing": "first_k"}),
        "epochs_per_block": Int(1, 5, when={"freezing": "gradual"}),
        "schedule": Choice("constant", "cosine", "linear"),
    },
)


def fine_tuning(point: Point) -> float:
    """The best learning rate depends on the batch size and on what is frozen."""
    freezing = point["freezing"]
    best_rate = -3.2 + 0.3 * math.log2(point["batch_size"] / 16) + 0.8 * (freezing == "head")
    loss = 0.3 * (math.log10(point["learning_rate"]) - best_rate) ** 2
    loss += 0.02 * (math.log10(point["weight_decay"]) + 3) ** 2 + (point["dropout"] - 0.15) ** 2
    loss += {16: 0.03, 32: 0.0, 64: 0.02, 128: 0.06}[point["batch_size"]]
    loss += {"constant": 0.04, "cosine": 0.0, "linear": 0.01}[point["schedule"]]
    if freezing == "first_k":
        return loss + 0.02 * abs(point["frozen_blocks"] - 4)
    if freezing == "gradual":
        return loss + 0.015 + 0.01 * abs(point["epochs_per_block"] - 2)
    return loss + {"none": 0.08, "head": 0.3}[freezing]


def controller_in(folder: Path, searcher: str, n_at_once: int, epochs: int) -> Controller:
    """A controller of a sweep in ``folder``, with what its record holds already."""
    sweep = Sweep(
        name="scale",
        folder=folder,
        space=FINE_TUNING.override({"epochs": epochs}),
        train_file=None,
        metric="val_loss",
        mode="min",
        trials=10**9,
        time_budget_seconds=None,
        cpus_per_trial=None,
        gpus_per_trial=None,
        concurrency=None,
        seed=0,
        searcher=searcher,
        scheduler=SCHEDULERS[searcher],
        engine="inprocess",
        tracking_uri="",
        experiment="scale",
        keep_checkpoints=3,
        max_failures=None,
        address=None,
        cache_folder=folder,
    )
    record = Record(folder)
    return Controller(
        sweep, record, Resources(1.0, 0.0, n_at_once), {"trial": Trials(sweep, record)}
    )


def epoch_result(point: Point, epoch: int) -> EpochResult:
    """A report as the built-in training makes it."""
    loss = fine_tuning(point) + math.exp(-0.3 * epoch)
    names = ("train_loss", "val_accuracy", "val_f1", "seconds", "samples_per_second")
    rest = ("trainable_parameters", "peak_memory_bytes", "learning_rate")
    return EpochResult(epoch, {"val_loss": loss, **dict.fromkeys((*names, *rest), loss / 3)})


def fill(folder: Path, n_trials: int) -> None:
    """Write the record of a sweep of ``n_trials``; of three, two were stopped at an early epoch."""
    record, generator = Record(folder), random.Random(0)
    for number in range(n_trials):
        point = FINE_TUNING.sample(generator)
        record.append("trial_started", trial=number, point=point, config={**point, "seed": 0})
        n_epochs = N_EPOCHS if number % 3 == 0 else -(-N_EPOCHS // 3)
        for epoch in range(1, n_epochs + 1):
            metrics = epoch_result(point, epoch).metrics
            record.append("epoch", trial=number, epoch=epoch, metrics=dict(metrics), note=None)
        state = "completed" if n_epochs == N_EPOCHS else "pruned"
        record.append("trial_ended", trial=number, state=state, error=None)
    record.close()


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def after(n_trials: int, searcher: str) -> dict[str, Any]:
    """Milliseconds of each call, and the memory grown, after a sweep of ``n_trials``."""
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name), n_trials)
        before = resident_mib()
        controller = controller_in(Path(name), searcher, n_at_once=4, epochs=N_EPOCHS)
        result: dict[str, Any] = {"suggest": [], "report": [], "end": []}
        result["memory"] = resident_mib() - before
        controller.propose()  # the first takes in all that was restored, once
        for _ in range(N_PROPOSALS[searcher]):
            run_one(controller, result)
        controller.close()
    return result


def run_one(controller: Controller, milliseconds: dict[str, list[float]]) -> None:
    """One trial from its proposal to its end."""

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        value = call()
        milliseconds[name].append(1000 * (time.perf_counter() - started))
        return value

    assignment = timed("suggest", controller.propose)
    for epoch in range(1, N_EPOCHS):
        result = epoch_result(assignment.config, epoch)
        if timed("report", lambda: controller.observe(assignment.trial, result)):  # noqa: B023
            return
    timed("end", lambda: controller.ended(assignment.trial, Outcome("completed")))


def at_once(searcher: str, n_trials: int, n_seconds: int) -> dict[str, Any]:
    """The loop with ``n_trials`` running, each of which reports once a second.

    The clock is virtual: it stands still for training, and handling takes the time that it takes.

    Returns:
        busy: the share of each second after all slots were first taken that went into handling.
        late: seconds by which reports were handled after they were due.
        ended: trials that ended or were frozen, and were replaced, in that time.
    """
    with tempfile.TemporaryDirectory() as name:
        controller = controller_in(Path(name), searcher, n_trials, N_EPOCHS_AT_ONCE)
        busy, late, n_ended = [0.0] * n_seconds, [], 0
        now, first = 0.0, math.inf  # of the virtual clock
        due: list[tuple[float, int, int, Point]] = []
        while now < first + n_seconds:
            started = time.perf_counter()
            if due and due[0][0] <= now:
                at, number, epoch, point = heapq.heappop(due)
                late.append(now - at)
                if goes_on(controller, number, epoch, point):
                    heapq.heappush(due, (at + 1.0, number, epoch + 1, point))
                else:
                    n_ended += first < math.inf
            elif assignment := controller.propose():
                heapq.heappush(due, (now + 1.0, assignment.trial, 1, dict(assignment.config)))
            else:
                if first == math.inf:
                    first, late = now, []
                now = due[0][0]
                continue
            spent = time.perf_counter() - started
            if first < math.inf:
                busy[int(now - first)] += spent
            now += spent
        controller.close()
    return {"busy": busy, "late": late, "ended": n_ended}


def goes_on(controller: Controller, number: int, epoch: int, point: Point) -> bool:
    """Report an epoch of a trial, and its end after the last."""
    if controller.observe(number, epoch_result(point, epoch)):
        return False
    if epoch == N_EPOCHS_AT_ONCE:
        controller.ended(number, Outcome("completed"))
        return False
    return True


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Suggestion time, report time and memory by size; the loop with many trials at once."""
    figures = []
    for n_trials in SIZES[:2] if quick else SIZES:
        runs = [_alone(after, n_trials, "curves") for _ in range(repeats)]
        figures += _costs(f"{n_trials}_curves", runs)
        runs = [_alone(after, n_trials, "tpe") for _ in range(repeats)]
        suggest = [_median_of(run, "suggest") for run in runs]
        figures.append(_median(f"suggest_{n_trials}_tpe", "ms", suggest, note="Optuna's TPE"))
    return [*figures, _loop("curves", repeats, quick)]


def _costs(name: str, runs: list[dict[str, Any]]) -> list[Figure]:
    """What each call costs; a goal of 1 ms for what happens more often than a proposal."""
    note = "resident memory of the driver, grown by the controller and its history"
    slowest = [_percentile(run["suggest"], 99) for run in runs]
    return [
        _median(f"suggest_{name}", "ms", [_median_of(run, "suggest") for run in runs], 20),
        _median(f"suggest_p99_{name}", "ms", slowest, 20),
        _median(f"report_{name}", "ms", [_median_of(run, "report") for run in runs], 1),
        _median(f"end_{name}", "ms", [_median_of(run, "end") for run in runs], 1),
        _median(f"memory_{name}", "MiB", [run["memory"] for run in runs], note=note),
    ]


def _loop(searcher: str, repeats: int, quick: bool) -> Figure:
    n_at_once, n_seconds = (50, 5) if quick else (N_AT_ONCE, N_SECONDS)
    runs = [_alone(at_once, searcher, n_at_once, n_seconds) for _ in range(repeats)]
    note = (
        f"{n_at_once} trials of {N_EPOCHS_AT_ONCE} epochs of 1 s for {n_seconds} s, "
        f"{runs[0]['ended'] / n_seconds:.1f} left their slot per second; worst second "
        f"{max(runs[0]['busy']):.2f}; reports handled {_percentile(runs[0]['late'], 99):.3f} s "
        "late (99th percentile)"
    )
    busy = [statistics.fmean(run["busy"]) for run in runs]
    return _median(f"loop_busy_{searcher}", "of the time", busy, 0.5, note)


def _alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call in a fresh process, whose memory nothing else has grown."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _median(
    name: str, unit: str, values: list[float], goal: float | None = None, note: str = ""
) -> Figure:
    return Figure(name, statistics.median(values), unit, goal, note=note, repeats=values)


def _median_of(run: dict[str, Any], name: str) -> float:
    return statistics.median(run[name])


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def main() -> None:
    for figure in measure(3, quick=False):
        print(f"{figure.name:24} {figure.value:10.3f} {figure.unit:12} {figure.note}", flush=True)


if __name__ == "__main__":
    main()
