"""What a warm trial costs beside its training: a cheap version of benchmark 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuning.sweep import SweepOptions, resolve

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TRAINING = BENCHMARKS / "contenders" / "digits_training.py"
N_TRIALS = 16
# Measured on two busy cores: 0.7; a new process for each trial costs 15 or more of it.
MOST = 1.0  # of the training's 0.5 s


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_warm_trial_costs_little_beside_its_training(workplace, run, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from digits_trials import write_digits
    from times import SweepTimes, read_times

    write_digits(workplace / "digits.npz")
    times_file = workplace / "times.jsonl"
    settings = [f"data={workplace / 'digits.npz'}", f"times_file={times_file}", "steps=100"]
    sweep = resolve(
        SweepOptions(
            space=str(TRAINING),
            settings=settings,
            trials=N_TRIALS,
            scheduler="none",
            cpus_per_trial=0.5,  # two at once on a single core too
            concurrency=2,
        )
    )
    assert run(sweep).summary["trials"]["completed"] == N_TRIALS
    times = SweepTimes(read_times(times_file), n_slots=2, process_started=0.0)
    assert len({trial.pid for trial in times.trials}) <= 2
    assert times.gap_seconds < MOST * times.training_seconds
