"""What a warm trial costs beside its training: a cheap version of benchmark 1."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
from helpers import BENCHMARKS

TRAINING = BENCHMARKS / "contenders" / "digits_training.py"
THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")
N_TRIALS = 16
# Measured on two cores: 0.05; a new process for each trial costs 7 or more of it.
MOST = 0.5  # of the training's 0.5 s


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_warm_trial_costs_little_beside_its_training(workplace, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from digits_trials import write_digits
    from times import SweepTimes, read_times

    write_digits(workplace / "digits.npz")
    times_file = workplace / "times.jsonl"
    command = [THAW, "sweep", str(TRAINING), "--trials", str(N_TRIALS), "--scheduler", "none"]
    command += ["--cpus-per-trial", "0.5", "--concurrency", "2"]  # two at once on one core too
    for setting in (f"data={workplace / 'digits.npz'}", f"times_file={times_file}", "steps=100"):
        command += ["--set", setting]
    # In a process of its own, as a user starts it.
    result = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert result.returncode == 0, result.stderr
    times = SweepTimes(read_times(times_file), n_slots=2, process_started=0.0)
    assert len({trial.pid for trial in times.trials}) <= 2
    assert times.gap_seconds < MOST * times.training_seconds
