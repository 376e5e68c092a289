"""Retrainings as runs: each seed once, also after a kill; the test split is read last, and once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import TOY_SPACE, reopened
from records import runs_of

from trainables.errors import InputError, RunFailed
from tuning.after.retrain import retrain
from tuning.control.retraining import FIRST_NUMBER
from tuning.record.events import TrialRecord, read_events, read_history
from tuning.record.sweep import Sweep

pytestmark = pytest.mark.timeout(300)
THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")


def retrained(sweep: Sweep, view, **options):
    """The document, and the runs as the record has them."""
    document = retrain(sweep, view=view, **{"n_seeds": 2, **options})
    return document, read_history(sweep.folder).retrainings


def states(runs: dict[int, TrialRecord]) -> list[tuple[str, str]]:
    return [(run.label, run.state) for _, run in sorted(runs.items())]


def test_winner_and_default_are_trained_with_each_seed_and_then_tested(tiny_digits, run, view):
    sweep = tiny_digits(trials=2, scheduler="none")
    run(sweep)
    document, runs = retrained(sweep, view, trial_number=1)
    configuration = "trial 1's configuration"
    assert states(runs) == [
        (f"{name}, seed {seed}", "completed")
        for name in (
            configuration,
            "the default",
            f"test of {configuration}",
            "test of the default",
        )
        for seed in (1, 2)
    ]
    trainings = [each for each in runs.values() if each.kind == "retraining"]
    tests = [each for each in runs.values() if each.kind == "test"]
    assert max(each.ended for each in trainings) <= min(each.started for each in tests)
    history = read_history(sweep.folder)
    assert (history.test_reads, history.retraining) == ([1], None)
    assert document["test_reads_before"] == 0
    assert (
        document["test"].items()
        <= runs[FIRST_NUMBER + 3 + document["champion_seed"]].curve[1].items()
    )
    confusion = document["artifacts"]["confusion_matrix.json"]
    assert sum(map(sum, confusion["counts"])) == 269
    assert document["model_uri"] == "models:/digits@champion"
    assert {gain["metric"] for gain in document["gains"]} == {"val_accuracy", "test_accuracy"}

    again, _ = retrained(sweep, view, trial_number=1, n_seeds=1)  # one seed repeats the trial
    assert again["seeds"][0]["val_accuracy"] == history.trials[1].value("val_accuracy", "max")
    assert (again["test_reads_before"], again["test_read_for_trials"]) == (1, [1])


def test_a_sweep_knows_nothing_of_its_retrainings(toy_sweep, run, view):
    sweep = toy_sweep("seconds=0.01", trials=3, scheduler="none")
    before = run(sweep).summary
    document, _ = retrained(sweep, view)
    resumed = run(reopened(sweep)).summary
    for name in ("trials", "best", "confirmed"):
        assert resumed[name] == before[name]
    history = read_history(sweep.folder)
    assert sorted(history.trials) == [0, 1, 2]
    assert len(history.retrainings) == 4
    assert history.spent.gpu_seconds(time.time()) == 0
    # The champion's run says what there is to say of them.
    assert sorted(runs_of(sweep)) == ["0", "1", "2", "parent", f"retrain of {document['trial']}"]


def kill_after(n_epochs: int, *arguments: str) -> None:
    """Kill ``thaw retrain`` with -9 when it has recorded so many epochs of its own."""
    folder = Path("sweeps/s")

    def n_recorded() -> int:
        return sum(len(run.curve) for run in read_history(folder).retrainings.values())

    process = subprocess.Popen([THAW, "retrain", "s", *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while n_recorded() < n_epochs:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_retraining_goes_on_where_it_was_when_it_is_typed_again(thaw):
    options = ("--metric", "value:max", "--engine", "inprocess", "--trials", "2", "--name", "s")
    assert thaw("sweep", TOY_SPACE, *options, "--set", "seconds=0.2")[0] == 0
    kill_after(6, "--seeds", "2", "--trial", "1")  # in the middle of the second of four
    events = list(read_events(Path("sweeps/s")))
    code, out, err = thaw("retrain", "s", "--seeds", "2", "--trial", "1", "--json")
    assert code == 0, err
    assert "1 of 4 trainings are done" in err
    new = list(read_events(Path("sweeps/s")))[len(events) :]
    assert not [each for each in new if each["event"] == "retraining_planned"]
    epochs = [(each["trial"], each["epoch"]) for each in new if each["event"] == "epoch"]
    assert FIRST_NUMBER not in {number for number, _ in epochs}
    assert min(epoch for number, epoch in epochs if number == FIRST_NUMBER + 1) > 1
    counts = Counter(number for number, _ in epochs)
    assert counts[FIRST_NUMBER + 2] == counts[FIRST_NUMBER + 3] == 4
    runs = read_history(Path("sweeps/s")).retrainings
    assert {(len(run.curve), run.state) for run in runs.values()} == {(4, "completed")}
    assert len(json.loads(out)["seeds"]) == 2
    # It is over: what is asked for now is a new one.
    assert thaw("retrain", "s", "--seeds", "2", "--trial", "1", "--json")[0] == 0
    assert len(read_history(Path("sweeps/s")).retrainings) == 8


def test_other_words_are_another_retraining(toy_sweep, run, view):
    sweep = toy_sweep("fault=raise", trials=4, scheduler="none", searcher="random")
    run(sweep)
    failed = next(
        t.number for t in read_history(sweep.folder).trials.values() if t.state == "failed"
    )
    for n_seeds in (1, 2, 2):
        with pytest.raises(RunFailed, match="something broke in epoch 2"):
            retrained(sweep, view, trial_number=failed, n_seeds=n_seeds, baseline=False)
    planned = [e for e in read_events(sweep.folder) if e["event"] == "retraining_planned"]
    assert [(each["number"], each["seeds"]) for each in planned] == [
        (failed, [0]),
        (failed, [1, 2]),
    ]
    runs = read_history(sweep.folder).retrainings
    assert [run.number for run in runs.values()] == [FIRST_NUMBER, FIRST_NUMBER + 1]
    error = (sweep.folder / planned[0]["key"] / "error.txt").read_text()
    assert "something broke in epoch 2" in error


def test_ctrl_c_ends_it_and_can_be_gone_on_with(toy_sweep, run, view):
    sweep = toy_sweep(trials=2, scheduler="none")
    run(sweep)

    class Pressed(type(view)):
        def say(self, message):
            super().say(message)
            if "seed 2, epoch 3" in message:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrained(sweep, Pressed(), trial_number=1)
    runs = read_history(sweep.folder).retrainings
    assert [run.state for run in runs.values()] == ["completed", "interrupted"]
    document, runs = retrained(sweep, view, trial_number=1)
    assert {run.state for run in runs.values()} == {"completed"}
    assert len(document["seeds"]) == 2


def test_several_workers_need_ray(toy_sweep, run, view):
    sweep = toy_sweep(trials=1)
    run(sweep)
    with pytest.raises(InputError, match="--workers = 2: --engine inprocess has one process"):
        retrained(sweep, view, n_workers=2)
    with pytest.raises(InputError, match="unknown engine 'rya'; valid: ray"):
        retrained(replace(sweep, engine="ray"), view, engine="rya")


def test_a_default_that_can_not_be_trained_costs_only_the_comparison(toy_sweep, run, view):
    sweep = toy_sweep("fault=raise", "fault_beyond=0.45", trials=6, scheduler="none")
    summary = run(sweep).summary
    assert summary["best"]["config"]["x"] <= 0.45  # the default has 0.5
    document = retrain(sweep, n_seeds=2, view=view)
    assert len(document["seeds"]) == 2
    assert document["default"] is None
    assert "the default configuration could not be trained: see" in document["verdict"]
    error = (Path(document["checkpoint"]).parents[1] / "default" / "error.txt").read_text()
    assert "something broke in epoch 2" in error
