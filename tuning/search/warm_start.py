"""Warm start: a new sweep takes over the finished trials of an earlier sweep or Optuna study.

The sampler is told those that fit before its first proposal. They are not trials of the new sweep:
they have no number in it, no run in MLflow, and are never its best.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.domains import SearchSpace
from trainables.errors import InputError
from trainables.metrics import Direction
from tuning.record.events import TrialRecord, read_history
from tuning.record.sweep import Sweep
from tuning.search.space_changes import DoesNotFit, point_of
from tuning.search.study_storage import masked, open_storage
from tuning.storage.saved_sweeps import open_sweep

_USED_STATES = ("completed", "pruned", "infeasible")
_MAY_DIFFER = ("monitor", "seed")  # fixed settings that make trials no less comparable


@dataclass(frozen=True)
class Source:
    """An earlier search, in our terms."""

    label: str
    objectives: Mapping[str, Direction]
    trials: Sequence[TrialRecord]  # their ``config`` holds all settings that are known
    fixed: Mapping[str, Any] = field(default_factory=dict)


def warm_trials(sweep: Sweep) -> list[TrialRecord]:
    """The trials that a sweep was given when it began, as its description has them."""
    return [
        TrialRecord(
            number=-1,
            config={},
            point=values["point"],
            state=values["state"],
            curve={int(epoch): metrics for epoch, metrics in values["curve"]},
        )
        for values in sweep.warm_start.get("trials", ())
    ]


def read_warm_start(text: str, sweep: Sweep) -> dict[str, Any]:
    """What ``--warm-start`` names, as far as it fits ``sweep``, as plain values.

    Returns:
        ``trials``, as ``warm_trials`` reads them, and ``note``, one line on what was dropped.

    Raises:
        InputError: there is no such sweep or study, or its objectives are others.
    """
    is_study = "://" in text or Path(text.partition("#")[0]).is_file()
    source = _open_study(text, sweep) if is_study else _open_sweep(text, sweep)
    if not sweep.objectives.items() <= source.objectives.items():
        raise InputError(
            f"--warm-start {source.label}: it was compared by {_words(source.objectives)}, and "
            f"this sweep is by {_words(sweep.objectives)}; it must have been by these as well"
        )
    used: list[dict[str, Any]] = []
    ignored: set[str] = set()  # searched then, and neither searched nor fixed now
    dropped: Counter[str] = Counter()
    for trial in source.trials:
        try:
            used.append(_fitting(trial, sweep))
            ignored |= set(trial.point) - {*sweep.space.domains, *sweep.space.fixed}
        except DoesNotFit as reason:
            dropped[str(reason)] += 1
    return {
        "source": source.label,
        "trials": used,
        "note": _note(source, len(used), dropped, ignored, sweep.space),
    }


def _fitting(trial: TrialRecord, sweep: Sweep) -> dict[str, Any]:
    """The trial as plain values.

    Raises:
        DoesNotFit: it is of no use to ``sweep``.
    """
    if trial.state not in _USED_STATES:
        raise DoesNotFit(trial.state)
    for name, value in sweep.space.fixed.items():
        if trial.point.get(name, value) != value:
            raise DoesNotFit(f"{name} is {value} here")
    point = point_of(sweep.space, {**trial.config, **trial.point})
    has_values = trial.values(sweep.objectives) is not None
    if trial.state == "pruned":  # an Optuna study keeps only the metric that it was pruned by
        has_values = any(sweep.metric in metrics for metrics in trial.curve.values())
    if trial.state != "infeasible" and not has_values:
        raise DoesNotFit("no value")
    curve = [
        [epoch, {name: metrics[name] for name in sweep.objectives if name in metrics}]
        for epoch, metrics in sorted(trial.curve.items())
    ]
    return {"point": point, "state": trial.state, "curve": curve}


def _note(
    source: Source, n_used: int, dropped: Counter[str], ignored: set[str], space: SearchSpace
) -> str:
    """One line on what was used and what was not."""
    reasons = ", ".join(f"{count} ({reason})" for reason, count in dropped.most_common())
    known = {*_MAY_DIFFER, *space.domains}
    others = sorted(
        name
        for name, value in source.fixed.items()
        if name not in known and value != space.fixed.get(name)
    )
    parts = [
        f"warm start from {source.label}: {n_used} of {n_used + dropped.total()} trials used",
        f"dropped {reasons}" if reasons else "",
        f"searched then and not here: {', '.join(sorted(ignored))}" if ignored else "",
        f"fixed otherwise then: {', '.join(others)}" if others else "",
    ]
    return "; ".join(part for part in parts if part)


def _words(objectives: Mapping[str, Direction]) -> str:
    return " and ".join(f"{name}:{direction}" for name, direction in objectives.items())


def _open_sweep(name: str, sweep: Sweep) -> Source:
    earlier = open_sweep(name, sweep.siblings)
    trials = list(read_history(earlier.folder).trials.values())
    return Source(f"sweep {earlier.name}", earlier.objectives, trials, earlier.space.fixed)


def _open_study(text: str, sweep: Sweep) -> Source:
    """A study in an Optuna storage; most studies do not name their metrics."""
    url, _, name = text.partition("#")
    if "://" not in url:
        url = f"journal://{url}"
    study = _load_study(open_storage(url, "--warm-start", to_read=True), name, url)
    directions: list[Direction] = [
        "max" if d.name == "MAXIMIZE" else "min" for d in study.directions
    ]
    names = study.metric_names
    if names is None:  # then only the directions can be compared
        names = list(sweep.objectives) if len(directions) == len(sweep.objectives) else directions
    objectives = dict(zip(names, directions, strict=True))
    trials = [_from_optuna(trial, list(objectives)) for trial in study.get_trials(deepcopy=False)]
    return Source(f"study {study.study_name}", objectives, trials)


def _load_study(storage: Any, name: str, url: str) -> Any:
    import optuna

    known = optuna.get_all_study_names(storage)
    if name not in known and not (name == "" and len(known) == 1):
        raise InputError(
            f"--warm-start {masked(url)}#{name}: that storage has the studies "
            f"{', '.join(known) or '(none)'}; name one after a #"
        )
    return optuna.load_study(study_name=name or known[0], storage=storage)


def _from_optuna(trial: Any, metrics: list[str]) -> TrialRecord:
    states = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    state = states.get(trial.state.name, "not finished")
    if any(value > 0 for value in trial.constraints.values()):
        state = "infeasible"
    curve = {epoch: {metrics[0]: value} for epoch, value in trial.intermediate_values.items()}
    if state == "completed":  # its value need not be that of its last epoch
        curve = {max(curve, default=1): dict(zip(metrics, trial.values, strict=True))}
    finite = {e: values for e, values in curve.items() if all(map(math.isfinite, values.values()))}
    return TrialRecord(-1, {}, dict(trial.params), state, finite)  # type: ignore[arg-type]
