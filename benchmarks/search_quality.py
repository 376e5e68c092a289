"""Does the bounded sampler search as well as one that learns from every trial, as Optuna's does?

    uv run python benchmarks/search_quality.py

Six conditional objectives in closed form, each with a known optimum of 0, the same seeds and the
same number of trials for each searcher, four trials at a time. "unbounded" is our sampler without
bounds, which proposes what Optuna's TPE proposes (tests/test_bounded_tpe.py) in a third of the
time. Up to 1,000 trials the bounded one proposes the same; here it has to do without a third.

Regret is the best value found (of noisy objectives: the true value of what looked best), divided by
that of an average random point. Regrets at the end span orders of magnitude, so searchers are
compared by the ratio of their geometric means, with a paired bootstrap over objectives and seeds.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import optuna
from figures import Figure

from search_spaces.domains import Choice, Float, Int, SearchSpace
from tuning.search.bounded_tpe import BoundedTPESampler
from tuning.search.study import SEARCHERS, Study

Point = dict[str, Any]

N_AT_ONCE = 4
N_EPOCHS = 9  # of the objective whose poor trials are stopped early
N_TRIALS = 1500
SMALLEST = 1e-4  # regret below it counts as this: beyond it nobody would tell
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "bounded": SEARCHERS["tpe"],
    "unbounded": lambda seed: BoundedTPESampler(seed=seed, n_ended=10**9, n_running=10**9),
    "random": SEARCHERS["random"],
}


@dataclass(frozen=True)
class Objective:
    """What is minimised; ``loss`` is 0 at its best point."""

    space: SearchSpace
    loss: Callable[[Point], float]
    noise: float = 0.0  # standard deviation of what is observed
    scheduler: str = "none"


def _space(**domains: Any) -> SearchSpace:
    return SearchSpace(name="synthetic", domains=domains)


FINE_TUNING = _space(
    learning_rate=Float(1e-5, 1e-1, log=True),
    weight_decay=Float(1e-6, 1e-1, log=True),
    batch_size=Choice(16, 32, 64, 128),
    dropout=Float(0.0, 0.5),
    freezing=Choice("none", "head", "first_k", "gradual"),
    frozen_blocks=Int(1, 6, when={"freezing": "first_k"}),
    epochs_per_block=Int(1, 5, when={"freezing": "gradual"}),
    schedule=Choice("constant", "cosine", "linear"),
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


BRANCHES = _space(
    model=Choice("wide", "narrow", "flat"),
    wide_a=Float(0.0, 1.0, when={"model": "wide"}),
    wide_b=Float(0.0, 1.0, when={"model": "wide"}),
    narrow_a=Float(0.0, 1.0, when={"model": "narrow"}),
    narrow_b=Float(0.0, 1.0, when={"model": "narrow"}),
    narrow_c=Float(0.0, 1.0, when={"model": "narrow"}),
    flat_a=Float(1e-4, 1.0, log=True, when={"model": "flat"}),
)


def branches(point: Point) -> float:
    """A wide basin that is good, and a narrow one in another branch that is better."""
    if point["model"] == "wide":
        return 0.1 + (point["wide_a"] - 0.4) ** 2 + (point["wide_b"] - 0.6) ** 2
    if point["model"] == "narrow":
        distance = sum((point[f"narrow_{axis}"] - 0.7) ** 2 for axis in "abc")
        return 1.0 - math.exp(-4 * distance)
    return 0.3 + 0.05 * abs(math.log10(point["flat_a"]) + 2)


VALLEY = _space(
    x=Float(-2.0, 2.0),
    y=Float(-1.0, 3.0),
    kind=Choice("plain", "bent", "shifted"),
    bend=Float(0.0, 2.0, when={"kind": ("bent", "shifted")}),
    shift=Float(-1.0, 1.0, when={"kind": "shifted"}),
)


def valley(point: Point) -> float:
    """A curved valley (Rosenbrock's), whose bend is a parameter of some branches."""
    bend, shift = point.get("bend", 0.0), point.get("shift", 0.0)
    across = point["y"] - bend * (point["x"] - shift) ** 2
    along = 1.0 - point["x"]
    return 5 * across**2 + along**2 + 0.5 * (bend - 1.0) ** 2 + 0.2 * (shift - 0.3) ** 2


RUGGED = _space(
    x=Float(-3.0, 3.0),
    y=Float(-3.0, 3.0),
    depth=Int(1, 8),
    z=Float(-3.0, 3.0, when={"depth": (4, 5, 6, 7, 8)}),
)


def rugged(point: Point) -> float:
    """Many local optima (Rastrigin's), in two or three dimensions."""
    axes = [point["x"] - 0.8, point["y"] + 1.1, point.get("z", 2.0) - 0.5]
    bumps = sum(x**2 + 2 * (1 - math.cos(2 * math.pi * x)) for x in axes)
    return bumps + 0.5 * abs(point["depth"] - 5)


OBJECTIVES = {
    "fine_tuning": Objective(FINE_TUNING, fine_tuning),
    "noisy": Objective(FINE_TUNING, fine_tuning, noise=0.05),
    "stopped_early": Objective(FINE_TUNING, fine_tuning, scheduler="asha"),
    "branches": Objective(BRANCHES, branches),
    "valley": Objective(VALLEY, valley),
    "rugged": Objective(RUGGED, rugged),
}


def regret(name: str, searcher: str, seed: int, n_trials: int) -> float:
    """What one search comes to."""
    SEARCHERS.update(SAMPLERS)
    objective = OBJECTIVES[name]
    noise = random.Random(seed)
    study = Study(
        objective.space,
        searcher=searcher,
        scheduler=objective.scheduler,
        direction="min",
        epochs=N_EPOCHS,
        seed=seed,
    )
    running: list[tuple[int, Point]] = []
    best_seen = best = math.inf
    for number in itertools.count():
        if number < n_trials:
            running.append((number, study.ask(number)))
        if number >= N_AT_ONCE:
            done, point = running.pop(0)
            seen = objective.loss(point) + noise.gauss(0.0, objective.noise)
            finished = objective.scheduler == "none" or _train(study, done, seen)
            study.tell(done, "completed" if finished else "pruned", seen if finished else None)
            if finished and seen < best_seen:
                best_seen, best = seen, objective.loss(point)
            if not running:
                break
    generator = random.Random(0)
    points = (objective.space.sample(generator) for _ in range(2000))
    average = statistics.fmean(objective.loss(point) for point in points)
    return max(best / average, SMALLEST)


def _train(study: Study, number: int, loss: float) -> bool:
    """A learning curve towards ``loss``; False if it was stopped."""
    rate = 0.2 + 0.3 * random.Random(number).random()  # some learn slowly, and are misjudged
    return not any(
        study.report(number, epoch, loss + math.exp(-rate * epoch))
        for epoch in range(1, N_EPOCHS + 1)
    )


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Each searcher's regret, and the paired comparisons; at least ten seeds unless quick."""
    n_trials, seeds = (60, range(1)) if quick else (N_TRIALS, range(max(repeats, 10)))
    names = ["fine_tuning"] if quick else list(OBJECTIVES)
    runs = list(itertools.product(names, seeds))
    regrets: dict[str, list[float]] = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for searcher in SAMPLERS:
            jobs = [pool.submit(regret, name, searcher, seed, n_trials) for name, seed in runs]
            regrets[searcher] = [job.result() for job in jobs]
    return list(_figures(regrets, [name for name, _ in runs], n_trials))


def _figures(regrets: dict[str, list[float]], names: list[str], n_trials: int) -> Iterator[Figure]:
    for searcher, values in regrets.items():
        by_name = {
            name: [value for value, run in zip(values, names, strict=True) if run == name]
            for name in dict.fromkeys(names)
        }
        means = ", ".join(f"{name} {_geometric_mean(by_name[name]):.2g}" for name in by_name)
        note = f"{n_trials} trials; mean rank {_mean_rank(regrets, searcher):.2f}; by objective, "
        yield Figure(
            f"regret_{searcher}",
            statistics.fmean(values),
            "of random",
            note=note + f"geometric means: {means}",
            repeats=values,
        )
    for other, end in (("unbounded", "low"), ("random", "high")):
        pairs = zip(regrets["bounded"], regrets[other], strict=True)
        logs = [math.log(ours / theirs) for ours, theirs in pairs]
        low, high = map(math.exp, _bootstrap_interval(logs))
        wins, losses = sum(log < 0 for log in logs), sum(log > 0 for log in logs)
        yield Figure(
            f"regret_bounded_of_{other}_{end}",
            low if end == "low" else high,
            "x",
            goal=1.0,  # not worse than the one, and better than the other
            note=f"end of the 95 % interval, {low:.2f} to {high:.2f}, of the geometric means' "
            f"ratio, {math.exp(statistics.fmean(logs)):.2f}; {wins} wins, {losses} losses of "
            f"{len(logs)}",
        )


def _mean_rank(regrets: dict[str, list[float]], searcher: str) -> float:
    """Over all runs, 1 being the best; equal ones share theirs."""
    ranks = []
    for run in zip(*regrets.values(), strict=True):
        value = run[list(regrets).index(searcher)]
        n_better = sum(other < value for other in run)
        ranks.append(n_better + (run.count(value) + 1) / 2)
    return statistics.fmean(ranks)


def _geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def _bootstrap_interval(values: list[float], n_samples: int = 5000) -> tuple[float, float]:
    """Where the mean lies with 95 % probability (percentile bootstrap)."""
    generator = random.Random(0)
    means = sorted(
        statistics.fmean(generator.choices(values, k=len(values))) for _ in range(n_samples)
    )
    return means[int(0.025 * n_samples)], means[int(0.975 * n_samples)]


def main() -> None:
    for figure in measure(10, quick=False):
        print(f"{figure.name:32} {figure.value:10.4g} {figure.unit:10} {figure.note}", flush=True)


if __name__ == "__main__":
    main()
