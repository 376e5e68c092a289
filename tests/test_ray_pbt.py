"""A population under a real Ray, and its champion trained anew along its schedule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_pbt import check_trials, pbt_sweep, takers, weight_of  # noqa: F401  a fixture
from test_ray import one_ray  # noqa: F401  likewise

from tuning.record import Record, TrialRecord
from tuning.retrain import retrain
from tuning.search.lineage import schedule_of_best

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def long_lineage(sweep, trials: list[TrialRecord]) -> TrialRecord:
    """The trial whose best weights had most settings on their way."""
    return max(trials, key=lambda trial: len(schedule_of_best(sweep, trial)))


def seed_curve(document: dict) -> dict[int, dict[str, float]]:
    file = Path(document["checkpoint"]).parent / "curve.json"
    return {int(epoch): metrics for epoch, metrics in json.loads(file.read_text()).items()}


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_champion_is_retrained_along_its_schedule(pbt_sweep, run, view, n_workers):  # noqa: F811
    sweep = pbt_sweep(engine="ray", concurrency=2)
    run(sweep)
    trials = check_trials(sweep)
    assert takers(trials)
    trial = long_lineage(sweep, trials)
    schedule = schedule_of_best(sweep, trial)
    assert len(schedule) > 1
    record = Record(sweep.folder)
    document = retrain(
        sweep, record, trial_number=trial.number, n_workers=n_workers, n_seeds=1, view=view
    )
    record.close()
    assert document["schedule"] == [[each.first_epoch, each.settings] for each in schedule]
    curve = seed_curve(document)
    best = trial.best_epoch("value", "max")
    for epoch in range(1, best + 1):
        now = [each.settings for each in schedule if each.first_epoch <= epoch][-1]
        assert curve[epoch]["rate"] == now["rate"]
    assert curve[best]["weight"] == weight_of(trial, best)
    assert document["seeds"][0]["value"] == trial.value("value", "max")
    assert not list(Path(document["checkpoint"]).parent.glob("replay*"))
