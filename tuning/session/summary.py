"""A sweep and its best trial as plain values, for a person or a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.control.goals import OF_FAILURE
from tuning.record.events import SweepHistory, TrialRecord
from tuning.record.ranking import pareto_front
from tuning.record.standings import Confirmed, best_trial, confirmed, count_states, standings
from tuning.record.sweep import Sweep
from tuning.storage.checkpoints import best_key
from tuning.storage.open_store import store_of


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
    return {
        "trial": trial.number,
        "config": trial.config,
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


def has_failed(summary: Mapping[str, Any]) -> bool:
    """Whether no trial reached a value, too many of them failed, or no worker could run them."""
    return summary["best"] is None or summary["ended_by"] in OF_FAILURE


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
