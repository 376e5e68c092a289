"""What came of a sweep, read from its record: no Ray, Optuna or MLflow needed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from tuning.confirm import Confirmed, confirmed, standings
from tuning.record import ENDED_STATES, SweepHistory, TrialRecord
from tuning.search.lineage import config_of_best, schedule_of_best, schedule_to_json
from tuning.search.pareto import pareto_front
from tuning.storage.checkpoints import best_key
from tuning.storage.sharing import store_of
from tuning.sweep import Sweep


def best_trial(sweep: Sweep, history: SweepHistory) -> TrialRecord:
    """The trial with the best mean over fresh seeds, else the one with the best value.

    Raises:
        InputError: no trial has reached one yet.
    """
    trials = standings(sweep, history)
    if not trials:
        counts = ", ".join(f"{count} {state}" for state, count in count_states(history).items())
        raise InputError(f"sweep {sweep.name}: no trial has reached a {sweep.metric} ({counts})")
    return trials[0]


def find_trial(sweep: Sweep, history: SweepHistory, number: int) -> TrialRecord:
    """Trial ``number``.

    Raises:
        InputError: there is no such trial.
    """
    if number not in history.trials:
        numbers = sorted(history.trials)
        valid = f"trials {numbers[0]} to {numbers[-1]}" if numbers else "no trials yet"
        raise InputError(f"--trial = {number}: sweep {sweep.name} has {valid}")
    return history.trials[number]


def count_states(history: SweepHistory) -> dict[str, int]:
    """How many trials ended in each state; others than the four only where there are some."""
    counts = history.n_in_state.copy()
    others = [state for state in counts if counts[state] and state not in ENDED_STATES]
    return {state: counts[state] for state in (*ENDED_STATES, *others)}


def checkpoint_of(sweep: Sweep, trial: TrialRecord) -> str | None:
    """The path or URI of the trial's best checkpoint, if it is among those kept, or may be."""
    store, key = store_of(sweep), best_key(trial.number)
    try:
        return store.find(key)
    except OSError:  # the sweep's home does not answer
        return store.name(key)


def fetch_checkpoint(sweep: Sweep, trial: TrialRecord) -> Path | None:
    """A folder of this machine with the trial's best checkpoint, if that is among those kept.

    Raises:
        OSError: the sweep's home does not answer.
    """
    return store_of(sweep).get(best_key(trial.number))


def describe_trial(sweep: Sweep, trial: TrialRecord, history: SweepHistory) -> dict[str, Any]:
    """A trial as a JSON document."""
    values = trial.values(sweep.objectives) if sweep.other_metrics else None
    mine = [each for each in confirmed(sweep, history) if each.trial.number == trial.number]
    schedule = schedule_of_best(sweep, trial)
    return {
        "trial": trial.number,
        "config": config_of_best(sweep, trial),
        "schedule": schedule_to_json(schedule) if len(schedule) > 1 else None,
        "value": trial.value(sweep.metric, sweep.mode),
        **({} if values is None else {"values": dict(zip(sweep.objectives, values, strict=True))}),
        "checkpoint": checkpoint_of(sweep, trial),
        "mlflow_run_id": trial.mlflow_run_id,
        "confirmed": _describe_confirmed(sweep, mine[0]) if mine else None,
    }


def _describe_confirmed(sweep: Sweep, each: Confirmed) -> dict[str, Any]:
    return {
        "trial": each.trial.number,
        "value": each.trial.value(sweep.metric, sweep.mode),
        "mean": each.mean,
        "standard_deviation": each.standard_deviation,
        "values": each.values,
        "n_seeds": each.n_seeds,
    }


def describe_best(sweep: Sweep, history: SweepHistory) -> dict[str, Any]:
    """The best trial by the first objective; with several, the Pareto front beside it."""
    best = best_trial(sweep, history)
    return {**describe_trial(sweep, best, history), **_front(sweep, history)}


def _front(sweep: Sweep, history: SweepHistory) -> dict[str, Any]:
    if not sweep.other_metrics:
        return {}
    front = pareto_front(history.trials, sweep.objectives)
    return {"pareto_front": [describe_trial(sweep, trial, history) for trial in front]}


def summarize(sweep: Sweep, history: SweepHistory) -> dict[str, Any]:
    """What ``thaw sweep --json`` ends with; ``best`` is None if no trial reached a value."""
    trials = standings(sweep, history)
    return {
        "sweep": sweep.name,
        "space": sweep.space.name,
        "task": sweep.task,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "trials": count_states(history),
        "best": describe_trial(sweep, trials[0], history) if trials else None,
        **_front(sweep, history),
        "mlflow": {
            "tracking_uri": sweep.tracking_uri,
            "experiment": sweep.experiment,
            "parent_run_id": history.parent_run_id,
        },
        "folder": sweep.place,
        "wall_seconds": round(history.spent.wall_seconds, 3),
        "ended_by": history.ended_by,
        "ended_because": history.ended_because,
        "confirmed": [_describe_confirmed(sweep, each) for each in confirmed(sweep, history)],
    }


def progress(counts: Mapping[str, int], n_trials: int) -> list[str]:
    """How far a sweep is, in words, by how many of its trials are in each state."""
    n_ended = sum(counts.get(state, 0) for state in ENDED_STATES)
    others = [f"{n} {state}" for state, n in counts.items() if n and state != "completed"]
    return [f"{n_ended}/{n_trials} trials done", *others]


def progress_line(summary: Mapping[str, Any]) -> str:
    """A sweep's trials so far, in words; of ``summarize``, with ``n_trials``."""
    parts = progress(summary["trials"], summary["n_trials"])
    if (best := summary["best"]) is not None:
        parts.append(f"best {summary['metric']} {best['value']:.4f} (trial {best['trial']})")
    return ", ".join(parts)


def trial_rows(sweep: Sweep, history: SweepHistory) -> list[dict[str, Any]]:
    """One flat row per trial: number, state, value, epochs, seconds, error, what was searched.

    What was searched is as it was in the best epoch, where it changed in the middle of a training.
    """
    rows = []
    means = {each.trial.number: each.mean for each in confirmed(sweep, history)}
    for number, trial in sorted(history.trials.items()):
        seconds = sum(metrics.get("seconds", 0.0) for metrics in trial.curve.values())
        settings = schedule_of_best(sweep, trial)[-1].settings
        rows.append(
            {
                "trial": number,
                "state": trial.state,
                sweep.metric: trial.value(sweep.metric, sweep.mode),
                **_other_values(sweep, trial),
                "best_epoch": trial.best_epoch(sweep.metric, sweep.mode),
                "epochs": max(trial.curve, default=0),
                "training_seconds": round(seconds, 2),
                "gpus": trial.gpus,
                **{name: settings.get(name) for name in sweep.space.domains},
                "schedule": trial.tags.get("schedule"),
                "confirmed": means.get(number),
                "packing": trial.tags.get("packing"),
                "error": None if trial.error is None else trial.error.strip().splitlines()[-1],
            }
        )
    return rows


def _other_values(sweep: Sweep, trial: TrialRecord) -> dict[str, float | None]:
    values = trial.values(sweep.objectives)
    if values is None:
        return dict.fromkeys(sweep.other_metrics)
    return dict(zip(sweep.other_metrics, values[1:], strict=True))


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def searched(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, Any]:
    """The searched settings among ``values``, in the space's order."""
    return {name: values[name] for name in sweep.space.domains if values.get(name) is not None}
