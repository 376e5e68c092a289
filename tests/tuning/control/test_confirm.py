"""Running the best again with fresh seeds: the luckiest trial does not win, and nothing is lost."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from helpers import InterruptingView, reopened, sweep_controller
from records import runs_of

from tuning.after.results import trial_rows
from tuning.before_start.options import SweepOptions, resolve
from tuning.command_line.cli import main
from tuning.control.confirm import FIRST_NUMBER
from tuning.hosting.assignment import EpochResult, Outcome
from tuning.record.events import EVENTS_FILE, Record, read_history
from tuning.record.plans import ConfirmationPlan
from tuning.record.resources import Resources
from tuning.record.standings import best_trial
from tuning.search.study_storage import JOURNAL_FILE, open_journal
from tuning.session.runner import run_sweep
from tuning.session.summary import describe_best
from tuning.storage.saved_sweeps import save_sweep
from tuning.storage.stores import trial_key
from tuning.storage.trial_checkpoints import BEST
from tuning.tracking.mlflow_client import CONFIRMED_TAG, CONFIRMS_TAG

# With the sweep's own seed, 0, x = 1 looks best; x = 2 is.
LUCKY = """
from search_spaces.domains import Choice, SearchSpace
from trainables.task import EpochReport

SPACE = SearchSpace(
    name="lucky",
    domains={"x": Choice(0, 1, 2, 3)},
    fixed={"epochs": 3, "breaks": -1},
)
QUALITY = [0.5, 0.6, 0.7, 0.4]

def train(config, run):
    x, seed = config["x"], config["seed"]
    value = QUALITY[x] + (0.3 if x == 1 and seed == 0 else 0.001 * (seed % 10))
    for epoch in range(1, config["epochs"] + 1):
        if seed > 0 and x == config["breaks"]:
            raise RuntimeError("it works with seed 0 only")

        def save(folder, epoch=epoch):
            (folder / "state.txt").write_text(f"{x} {seed} {epoch}")

        metrics = {"value": value * epoch / config["epochs"], "size": float(x)}
        yield EpochReport(epoch, metrics, save)
"""


@pytest.fixture
def lucky(workplace: Path):
    (workplace / "lucky.py").write_text(LUCKY)

    def make(*settings: str, **options):
        defaults = {"name": "lucky", "engine": "inprocess", "metric": "value:max", "confirm": 2}
        fixed = {"searcher": "grid", "trials": 4, "scheduler": "none"}
        values = {**defaults, **fixed, **options}
        return resolve(SweepOptions(space="lucky.py", settings=settings, **values))

    return make


def test_the_luckiest_trial_does_not_win(lucky, run, view):
    sweep = lucky(keep_checkpoints=1)
    summary = run(sweep).summary
    history = read_history(sweep.folder)
    by_x = {trial.config["x"]: trial.number for trial in history.trials.values()}
    assert summary["trials"]["completed"] == 4  # confirmation runs are not counted
    assert list(history.trials) == [0, 1, 2, 3]
    assert history.plan == ConfirmationPlan([by_x[1], by_x[2]], [1000, 1001, 1002])
    assert [row["trial"] for row in summary["confirmed"]] == [by_x[2], by_x[1]]
    first, second = summary["confirmed"]
    assert first["values"] == pytest.approx([0.7, 0.701, 0.702])
    assert first["mean"] == pytest.approx(0.701)
    assert first["standard_deviation"] == pytest.approx(0.001)
    assert second["value"] == pytest.approx(0.9)
    assert second["mean"] == pytest.approx(0.601)
    best = summary["best"]
    assert best["trial"] == best_trial(sweep, history).number == by_x[2]
    assert best["value"] == pytest.approx(0.7)
    assert best["confirmed"] == first
    # its own checkpoint, although only one was to be kept, and none of the confirmation runs'
    assert (Path(best["checkpoint"]) / "state.txt").read_text() == "2 0 3"
    runs = list(history.confirmations)
    assert runs == [FIRST_NUMBER + i for i in range(6)]
    assert not any((sweep.folder / trial_key(number) / BEST).exists() for number in runs)
    rows = {row["trial"]: row["confirmed"] for row in trial_rows(sweep, history)}
    assert rows == {by_x[0]: None, by_x[1]: second["mean"], by_x[2]: first["mean"], by_x[3]: None}


def test_several_metrics_are_confirmed_by_the_first_beside_their_pareto_front(lucky, run, view):
    sweep = lucky(metric=["value:max", "size:min"], confirm_seeds=2)
    summary = run(sweep).summary
    history = read_history(sweep.folder)
    by_x = {trial.config["x"]: trial.number for trial in history.trials.values()}
    document = describe_best(sweep, history)
    assert document["trial"] == summary["best"]["trial"] == by_x[2]
    assert document["confirmed"]["mean"] == pytest.approx(0.7005)
    assert document["values"] == pytest.approx({"value": 0.7, "size": 2.0})
    assert [trial["trial"] for trial in document["pareto_front"]] == [by_x[1], by_x[0]]
    study = optuna.load_study(study_name="lucky", storage=open_journal(sweep.folder / JOURNAL_FILE))
    assert len(study.trials) == 4  # confirmation runs are none of the study's
    assert not [message for message in view.messages if "Optuna study" in message]


def test_mlflow_has_each_confirmation_run_once_and_the_means(lucky, run):
    sweep = lucky(confirm_seeds=2)
    summary = run(sweep).summary
    runs = runs_of(sweep)
    assert len(runs) == 1 + 4 + 4
    history = read_history(sweep.folder)
    for number, trial in history.confirmations.items():
        found = runs[str(number)]
        assert found.data.tags[CONFIRMS_TAG] == str(trial.repeats)
        assert found.data.tags["mlflow.parentRunId"] == summary["mlflow"]["parent_run_id"]
        assert found.data.params["seed"] == str(trial.config["seed"])
        assert found.data.metrics["value"] == trial.value("value", "max")
    winner = str(summary["best"]["trial"])
    assert runs[winner].data.tags[CONFIRMED_TAG] == "0.7005 ± 0.0007 over 2 fresh seeds"
    assert CONFIRMS_TAG not in runs[winner].data.tags


def test_an_interrupted_confirmation_is_resumed(lucky, run):
    sweep = lucky()
    first = run_sweep(sweep, InterruptingView(after_epochs=4 * 3 + 3 + 2))
    assert first.interrupted
    assert first.summary["confirmed"] == []
    before = read_history(sweep.folder)
    by_x = {trial.config["x"]: trial.number for trial in before.trials.values()}
    assert first.summary["best"]["trial"] == by_x[1]  # nothing is decided yet
    states = [trial.state for trial in before.confirmations.values()]
    assert states == ["completed", "interrupted"]
    second = run(reopened(sweep))
    assert second.summary["best"]["trial"] == by_x[2]
    after = read_history(sweep.folder)
    assert {trial.state for trial in after.confirmations.values()} == {"completed"}
    assert len(after.confirmations) == 6
    assert (sweep.folder / EVENTS_FILE).read_text().count("confirmation_planned") == 1
    assert len(runs_of(sweep)) == 1 + 4 + 6
    third = run(reopened(sweep))  # nothing is left to do
    assert third.summary["confirmed"] == second.summary["confirmed"]
    assert len(read_history(sweep.folder).confirmations) == 6


def test_a_killed_driver_leaves_no_run_behind(lucky, run):
    sweep = lucky()
    run(sweep)
    path = sweep.folder / EVENTS_FILE
    lines = path.read_text().splitlines(keepends=True)
    started = [i for i, line in enumerate(lines) if f'"trial": {FIRST_NUMBER + 2}' in line]
    path.write_text("".join(lines[: started[0] + 2]))  # it had reported one epoch
    summary = run(reopened(sweep)).summary
    assert len(summary["confirmed"]) == 2
    runs = read_history(sweep.folder).confirmations.values()
    assert [(len(trial.curve), trial.state) for trial in runs] == [(3, "completed")] * 6
    assert len({(trial.repeats, trial.config["seed"]) for trial in runs}) == 6


def test_a_sweep_that_is_done_can_be_confirmed_and_then_extended(lucky, run):
    sweep = lucky(confirm=0, searcher="random", trials=3, seed=0)
    assert run(sweep).summary["confirmed"] == []
    assert len(run(reopened(sweep, confirm=1)).summary["confirmed"]) == 1
    n_before = len(read_history(sweep.folder).confirmations)
    wider = run(reopened(sweep, confirm=3, trials=12)).summary
    history = read_history(sweep.folder)
    assert list(history.trials) == list(range(12))
    assert len(wider["confirmed"]) == 3
    assert n_before == 3
    points = [json.dumps(history.trials[row["trial"]].point) for row in wider["confirmed"]]
    assert len(set(points)) == 3  # equal points are confirmed once
    pairs = [(trial.repeats, trial.config["seed"]) for trial in history.confirmations.values()]
    assert len(set(pairs)) == len(pairs)  # what was known is not run again


def test_a_configuration_that_breaks_with_a_fresh_seed_does_not_win(lucky, run):
    summary = run(lucky("breaks=2")).summary
    first, second = summary["confirmed"]
    assert second["mean"] is None
    assert second["values"] == []
    assert summary["best"]["trial"] == first["trial"]
    assert summary["best"]["config"]["x"] == 1
    assert summary["trials"]["failed"] == 0


def test_too_many_failures_are_not_confirmed(lucky, run, workplace):
    broken = LUCKY.replace("seed > 0 and x ==", "x !=").replace('"breaks": -1', '"breaks": 1')
    (workplace / "lucky.py").write_text(broken)
    sweep = resolve(
        SweepOptions(
            space="lucky.py",
            metric="value:max",
            engine="inprocess",
            max_failures=0,
            confirm=1,
            trials=20,
            searcher="random",
            seed=3,
        )
    )
    result = run(sweep)
    assert result.has_failed
    assert result.summary["confirmed"] == []


def test_confirmation_waits_for_the_last_trial_and_runs_after_any_ending(toy_sweep):
    sweep = replace(toy_sweep(trials=9, target=0.4), confirm=1, confirm_seeds=2)
    save_sweep(sweep)
    record = Record(sweep.folder)
    controller = sweep_controller(sweep, record, Resources(1, 0, concurrency=2))
    controller.propose()
    controller.propose()
    assert controller.observe(0, EpochResult(1, {"value": 0.5}))
    assert controller.propose() is None
    assert not controller.exhausted
    assert controller.observe(1, EpochResult(1, {"value": 0.3}))
    runs = [controller.propose(), controller.propose()]
    assert [run.trial for run in runs] == [FIRST_NUMBER, FIRST_NUMBER + 1]
    assert [run.config["seed"] for run in runs] == [1000, 1001]
    controller.worker_lost(runs[0].trial)
    assert not controller.exhausted
    assert controller.propose().trial == runs[0].trial  # it comes back
    for run in runs:  # the target does not end them
        assert not controller.observe(run.trial, EpochResult(1, {"value": 0.9}))
        controller.ended(run.trial, Outcome("completed"))
    assert controller.exhausted
    assert controller.propose() is None
    assert controller.kinds["trial"].ending.by == "target"
    controller.close()


def test_the_report_says_which_is_best_and_why(lucky, workplace, monkeypatch, capfd):
    def thaw(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["thaw", *arguments])
        capfd.readouterr()
        main()
        return capfd.readouterr().out

    lucky()  # writes the space
    options = ("--engine", "inprocess", "--metric", "value:max", "--name", "s", "--trials", "4")
    searched = ("--searcher", "grid", "--scheduler", "none", "--confirm", "2")
    out = thaw("sweep", "lucky.py", *options, *searched)
    numbers = {t.config["x"]: n for n, t in read_history(workplace / "sweeps/s").trials.items()}
    assert "ended because its 4 trials are done, the whole grid" in out
    winner, luckiest = numbers[2], numbers[1]
    assert f"trial {winner} is the best by its mean over fresh seeds; in the search it was" in out
    assert f"best: trial {winner}, value 0.7000" in out
    assert f"it was trial {luckiest}" in out
    assert "mean 0.701 over fresh seeds (0.7 0.701 0.702), which decided" in thaw("best", "s")
    assert "[0.7010 with fresh seeds]" in thaw("trials", "s")
