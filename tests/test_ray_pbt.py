"""A population under a real Ray, and its champion trained anew along its schedule."""

from __future__ import annotations

import json

import pytest
from test_pbt import check_trials, pbt_sweep, takers, weight_of  # noqa: F401  a fixture
from test_ray import one_ray  # noqa: F401  likewise

from tuning.record import Record, TrialRecord
from tuning.retrain import retrain
from tuning.search.lineage import schedule_of_best
from tuning.storage.remote import RemoteFolder, is_uri, split_uri

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def long_lineage(sweep, trials: list[TrialRecord]) -> TrialRecord:
    """The trial whose best weights had most settings on their way."""
    return max(trials, key=lambda trial: len(schedule_of_best(sweep, trial)))


def folder_of_seed(document: dict) -> RemoteFolder:
    checkpoint = document["checkpoint"]
    return RemoteFolder(split_uri(checkpoint if is_uri(checkpoint) else f"file://{checkpoint}")[0])


@pytest.mark.parametrize(("n_workers", "at"), [(1, "bucket"), (2, "workplace")])
def test_a_champion_is_retrained_along_its_schedule(pbt_sweep, run, view, n_workers, at, request):  # noqa: F811
    sweeps_folder = str(request.getfixturevalue(at))
    sweep = pbt_sweep(engine="ray", concurrency=2, sweeps_folder=sweeps_folder)
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
    there = folder_of_seed(document)
    content = json.loads(there.read("curve.json") or b"")
    curve = {int(epoch): metrics for epoch, metrics in content.items()}
    best = trial.best_epoch("value", "max")
    for epoch in range(1, best + 1):
        now = [each.settings for each in schedule if each.first_epoch <= epoch][-1]
        assert curve[epoch]["rate"] == now["rate"]
    assert curve[best]["weight"] == weight_of(trial, best)
    assert document["seeds"][0]["value"] == trial.value("value", "max")
    assert not [path for path in there.files() if path.startswith("replay")]
