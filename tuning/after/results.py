"""What came of a sweep, read from its record: no Ray, Optuna or MLflow needed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from tuning.record.events import ENDED_STATES, SweepHistory
from tuning.record.standings import confirmed
from tuning.record.sweep import Sweep


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
    """One flat row per trial: number, state, value, epochs, seconds, error, what was searched."""
    rows = []
    means = {each.trial.number: each.mean for each in confirmed(sweep, history)}
    for number, trial in sorted(history.trials.items()):
        values = dict(zip(sweep.objectives, trial.values(sweep.objectives) or (), strict=False))
        seconds = sum(metrics.get("seconds", 0.0) for metrics in trial.curve.values())
        rows.append(
            {
                "trial": number,
                "state": trial.state,
                sweep.metric: trial.value(sweep.metric, sweep.mode),
                **{name: values.get(name) for name in sweep.other_metrics},
                "best_epoch": trial.best_epoch(sweep.metric, sweep.mode),
                "epochs": max(trial.curve, default=0),
                "training_seconds": round(seconds, 2),
                "gpus": trial.gpus,
                **{name: trial.point.get(name) for name in sweep.space.domains},
                "confirmed": means.get(number),
                "packing": trial.tags.get("packing"),
                "error": None if trial.error is None else trial.error.strip().splitlines()[-1],
            }
        )
    return rows


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
