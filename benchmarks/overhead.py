"""Benchmark 1: what a short trial costs beside its training, in Thaw and elsewhere.

Every contender trains the same function (``contenders/digits_training.py``), which notes when it
was entered, had done its first step, and ended. Per contender:

- start-up: from the start of the command to the end of the first training step of any trial;
- overhead: (slots x wall - trials x pure) / (trials - slots), where the wall time goes from the end
  of that step to the end of the last training, and pure is the time of the same training in one of
  as many warm bare processes as there are slots, side by side ("beside a lone process": in one warm
  process alone). The first trial of each slot is start-up, so few trials compare with many;
- seconds per trial and slot: the overhead and the pure training;
- whole command: its seconds; where it ran fewer than 40 trials, with what the others would add;
- gap: median time from the end of a training to the entry of the next in the same slot;
- processes and memory: the highest number of processes, and of summed PSS, in samples of one a
  second over the tree of processes, over the whole command.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from digits_trials import (
    Command,
    Workload,
    pure_seconds,
    run_sweep,
    script,
    starting_accuracy,
    thaw,
    workload,
)
from figures import Figure

_STEPS = 100  # per epoch, of 3: about 0.5 s of training
_N_TRIALS = 40
_SHORTEST_OVERHEAD = 0.01  # s; ratios to less than that would be of noise


@dataclass(frozen=True)
class _Contender:
    command: Command
    n_trials: int = _N_TRIALS
    n_slots: int = 2


CONTENDERS = {
    "thaw": _Contender(thaw),
    "tune_torch_trainer": _Contender(script("torch_trainer_in_tune.py"), 8),
    "tune_function": _Contender(script("tune_function.py"), 8),
    "tune_reuse": _Contender(script("tune_function.py", reuse=True)),
    "optuna": _Contender(script("optuna_alone.py"), n_slots=1),
}
# (contender, how many times less Thaw's overhead is to be)
_GOALS = {"tune_torch_trainer": 50.0, "tune_reuse": 3.0}


def measure(repeats: int, quick: bool) -> list[Figure]:
    """Run every contender ``repeats`` times.

    Raises:
        RuntimeError: a contender failed, or trained something else than the others.
    """
    rounds: list[dict[str, float]] = []
    with workload(10 if quick else _STEPS) as work:
        for _ in range(repeats):
            rounds.append(_round(work, quick))
    return [_figure(name, [values[name] for values in rounds], quick) for name in rounds[0]]


def _round(work: Workload, quick: bool) -> dict[str, float]:
    """Every value of one repeat, by the figure's name."""
    pure = {n: pure_seconds(work, n) for n in (1, 2)}
    values = {f"pure: seconds, {n} at once": seconds for n, seconds in pure.items()}
    overheads, accuracies = {}, {}
    for name, contender in CONTENDERS.items():
        n_trials = 4 if quick else contender.n_trials
        times, ran = run_sweep(work, contender.command, n_trials, contender.n_slots)
        accuracies[name] = starting_accuracy(times.trials)
        overheads[name] = times.overhead_seconds(pure[contender.n_slots])
        slot_seconds = overheads[name] + pure[contender.n_slots]
        missing = (_N_TRIALS - n_trials) * slot_seconds
        values |= {
            f"{name}: start-up": times.startup_seconds,
            f"{name}: seconds per trial and slot": slot_seconds,
            f"{name}: overhead per trial and slot": overheads[name],
            f"{name}: overhead, beside a lone process": times.overhead_seconds(pure[1]),
            f"{name}: whole command, of {_N_TRIALS} trials": ran.seconds
            + missing / contender.n_slots,
            f"{name}: gap between trials of a slot": times.gap_seconds,
            f"{name}: processes at the peak": ran.peak_processes,
            f"{name}: summed PSS at the peak": ran.peak_pss_mib,
        }
    if len(set(accuracies.values())) > 1:
        raise RuntimeError(f"the contenders did not train the same: {accuracies}")
    for name in _GOALS:
        ratio = overheads[name] / max(overheads["thaw"], _SHORTEST_OVERHEAD)
        values[f"{name} / thaw, overhead"] = ratio
    return values


def _figure(name: str, repeats: list[float], quick: bool) -> Figure:
    contender, _, what = name.partition(": ")
    unit, goal, better, note = "s", None, "less", ""
    if what.startswith("processes"):
        unit = "processes"
    elif what.startswith("summed PSS"):
        unit = "MiB"
    elif " / thaw" in name:
        unit, goal, better = "x", _GOALS[name.partition(" / ")[0]], "more"
        contender = name.partition(" / ")[0]
    elif name == "thaw: overhead per trial and slot":
        goal = 0.15
    if (
        contender in CONTENDERS
        and CONTENDERS[contender].n_trials < _N_TRIALS
        and unit in ("s", "x")
    ):
        note = f"over {CONTENDERS[contender].n_trials} trials instead of {_N_TRIALS}"
    if quick:
        note = "quick: shows only that it runs"
    return Figure(name, statistics.median(repeats), unit, goal, better, note, repeats)
