"""Sweeps with ``--scheduler pbt``, from beginning to end: lineages, resuming, MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from helpers import SUPPORT, InterruptingView, RecordingView, reopened
from mlflow import MlflowClient
from population_space import SPACE, value_of
from records import runs_of, study_of

from trainables.errors import InputError
from trainables.task import TrainingRun
from tuning.after.results import trial_rows
from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.resume_options import change_space
from tuning.hosting.segments import replay
from tuning.record.events import TrialRecord, read_events, read_history
from tuning.record.schedules import configurations, describe_schedule, schedule_of_best
from tuning.record.sweep import local_resources
from tuning.search.warm_start import read_warm_start
from tuning.session.runner import run_sweep
from tuning.session.summary import describe_best
from tuning.storage.checkpoints import checkpoint_sizes, trial_folder
from tuning.storage.remote import RemoteFolder
from tuning.storage.saved_sweeps import open_sweep, save_sweep
from tuning.storage.stores import FolderStore
from tuning.storage.trial_checkpoints import BEST, milestone
from tuning.user_code.loading import training_function

FILE = str(SUPPORT / "population_space.py")
EPOCHS = 8


@pytest.fixture
def pbt_sweep(workplace, monkeypatch):
    # A member starts and is frozen again and again: MLflow need not hear of each time.
    monkeypatch.setattr("tuning.tracking.mlflow_runs._SECONDS_BETWEEN_BATCHES", 0.5)
    # Nor need garbage be looked for after each of 64 legs, which takes 0.2 s with torch at hand.
    monkeypatch.setattr("trainables.training.process_state.free_memory", lambda: None)

    def make(*settings: str, **options):
        values = {
            "name": "pbt",
            "engine": "inprocess",
            "trials": 8,
            "metric": "value:max",
            "scheduler": "pbt",
            "searcher": "random",
            **options,
        }
        return resolve(SweepOptions(space=FILE, settings=settings, **values))

    return make


def weight_of(trial: TrialRecord, epoch: int) -> float:
    """What the weight must be after an epoch, by the recorded schedule."""
    weight = 0.0
    schedule = trial.schedule_until(epoch)
    for number in range(1, epoch + 1):
        settings = [s.settings for s in schedule if s.first_epoch <= number][-1]
        weight += settings["width"] * settings["rate"] * number
    return weight


def check_trials(sweep) -> list[TrialRecord]:
    """Each trial as its schedule says, every epoch of it; its settings in their domains."""
    trials = read_history(sweep.folder).trials
    assert list(trials) == list(range(sweep.trials))
    for trial in trials.values():
        for epoch, metrics in trial.curve.items():
            assert metrics["weight"] == pytest.approx(weight_of(trial, epoch), rel=1e-12)
            assert metrics["rate"] == trial.schedule_until(epoch)[-1].settings["rate"]
        for takeover in trial.takeovers:
            donor = trials[takeover.donor]
            *lineage, now = takeover.schedule
            assert lineage == donor.schedule_until(takeover.epoch)
            assert now.first_epoch == takeover.epoch + 1
            assert now.settings["width"] == lineage[-1].settings["width"]  # may not change
            assert donor.curve[takeover.epoch]["value"] > trial.curve[takeover.epoch]["value"]
            for name, value in now.settings.items():
                assert SPACE.domains[name].contains(value)
            assert ("scale" in now.settings) == (now.settings["kind"] == "scaled")
    return list(trials.values())


def takers(trials: list[TrialRecord]) -> list[TrialRecord]:
    return [trial for trial in trials if trial.takeovers]


def test_the_worst_go_on_from_the_weights_of_the_best(pbt_sweep, run, view):
    sweep = pbt_sweep()
    assert sweep.mutable == ("rate", "kind", "scale")
    result = run(sweep)
    trials = check_trials(sweep)
    assert {trial.state for trial in trials} == {"completed"}
    assert all(sorted(trial.curve) == list(range(1, EPOCHS + 1)) for trial in trials)
    assert len(takers(trials)) >= 2
    assert any("population of 8" in m and "rate, kind, scale" in m for m in view.messages)
    # Two of eight after each of seven epochs, at most.
    events = [event for event in read_events(sweep.folder) if event["event"] == "taken_over"]
    assert 4 <= len(events) <= 14
    assert all(event["donor_value"] > event["value"] for event in events)
    assert result.summary["trials"]["completed"] == 8
    assert not list(sweep.folder.glob("trials/*/epoch-*"))  # nobody needs them any more
    assert len(checkpoint_sizes(sweep.folder)) == 3


def test_a_population_at_a_uri_is_interrupted_and_goes_on(pbt_sweep, bucket, view):
    sweep = pbt_sweep(sweeps_folder=bucket)
    run_sweep(sweep, InterruptingView(after_epochs=30))
    result = run_sweep(open_sweep("pbt", bucket), view)
    assert result.summary["trials"]["completed"] == 8
    assert takers(check_trials(sweep))
    kept = {path.split("/")[2] for path in RemoteFolder(str(sweep.home)).files("trials")}
    assert not [name for name in kept if name.startswith("epoch-")]


def test_a_population_ends_better_than_the_same_trials_alone(pbt_sweep, run):
    ends = {}
    for scheduler in ("none", "pbt"):
        sweep = pbt_sweep(name=scheduler, scheduler=scheduler)
        run(sweep)
        trials = read_history(sweep.folder).trials.values()
        ends[scheduler] = sorted(trial.curve[EPOCHS]["value"] for trial in trials)
    assert sum(ends["pbt"]) / 8 > sum(ends["none"]) / 8 + 0.1
    assert ends["pbt"][0] > ends["none"][2]  # the worst third is not left behind


def test_the_best_trials_schedule_is_told(pbt_sweep, run, thaw):
    sweep = pbt_sweep()
    run(sweep)
    history = read_history(sweep.folder)
    document = describe_best(sweep, history)
    best = history.trials[document["trial"]]
    epoch = best.best_epoch("value", "max")
    assert document["value"] == value_of(weight_of(best, epoch))
    assert document["config"]["rate"] == best.curve[epoch]["rate"]
    row = next(row for row in trial_rows(sweep, history) if row["schedule"])
    code, out, err = thaw("trials", "pbt")
    assert code == 0, err
    assert "from epoch 1:" in out
    assert row["schedule"].count("from epoch") >= 2
    code, out, err = thaw("best", "pbt", "--json")
    assert code == 0, err
    assert json.loads(out)["schedule"] == document["schedule"]
    if document["schedule"]:
        code, out, err = thaw("best", "pbt")
        assert "schedule" in out


@pytest.mark.parametrize("n_epochs", [9, 14, 23, 40])
def test_an_interrupted_population_goes_on_as_if_nothing_had_happened(pbt_sweep, run, n_epochs):
    whole = pbt_sweep(name="whole", experiment="whole")
    run(whole)
    sweep = pbt_sweep(name="cut", experiment="cut")
    assert run_sweep(sweep, InterruptingView(after_epochs=n_epochs)).interrupted
    run(reopened(sweep))
    trials = check_trials(sweep)
    assert {trial.state for trial in trials} == {"completed"}
    epochs = [(e["trial"], e["epoch"]) for e in read_events(sweep.folder) if e["event"] == "epoch"]
    assert len(epochs) == len(set(epochs)) == 8 * EPOCHS
    # A member that was cut off in its leg goes on before the others: the order in which they
    # arrive may differ, and with it the number of those known; most is as without.
    same = [
        one.schedule() == other.schedule()
        for one, other in zip(check_trials(whole), trials, strict=True)
    ]
    assert sum(same) >= 4
    runs = runs_of(sweep)
    assert len(runs) == 9


class KillingView(RecordingView):
    """Ends the driver right after a takeover was noted, before the trial begins again."""

    def update(self, event) -> None:
        super().update(event)
        if event["event"] == "taken_over":
            raise KeyboardInterrupt


def test_a_takeover_is_decided_once(pbt_sweep, run):
    sweep = pbt_sweep()
    run_sweep(sweep, KillingView())
    taken = [event for event in read_events(sweep.folder) if event["event"] == "taken_over"]
    assert len(taken) == 1
    run(reopened(sweep))
    trials = check_trials(sweep)
    assert {trial.state for trial in trials} == {"completed"}
    keys = [(t.number, takeover.epoch) for t in trials for takeover in t.takeovers]
    assert len(keys) == len(set(keys))
    assert (taken[0]["trial"], taken[0]["epoch"]) in keys


class DamagingView(RecordingView):
    """Damages the first checkpoint that a trial is about to go on from, or takes it away."""

    def __init__(self, folder: Path, *, gone: bool) -> None:
        super().__init__()
        self.folder, self.gone, self.damaged = folder, gone, 0

    def update(self, event) -> None:
        super().update(event)
        if event["event"] == "taken_over" and not self.damaged:
            self.damaged = event["epoch"]
            state = trial_folder(self.folder, event["donor"]) / milestone(event["epoch"])
            (state / "state.json").write_text("{")
            if self.gone:
                state.rename(state.with_name("elsewhere"))


@pytest.mark.parametrize("gone", [False, True])
def test_a_donors_damaged_checkpoint_costs_the_takeover_and_no_more(pbt_sweep, gone):
    sweep = pbt_sweep()
    view = DamagingView(sweep.folder, gone=gone)
    run_sweep(sweep, view)
    trials = read_history(sweep.folder).trials
    assert {trial.state for trial in trials.values()} == {"completed"}
    events = [event for event in read_events(sweep.folder) if event["event"] == "taken_over"]
    first, second = events[:2]
    assert second["trial"] == second["donor"] == first["trial"]
    assert second["epoch"] == first["epoch"]
    trial = trials[first["trial"]]
    for epoch, metrics in trial.curve.items():
        assert metrics["weight"] == pytest.approx(weight_of(trial, epoch), rel=1e-12)
    retried = [event for event in view.events if event["event"] == "trial_retried"]
    assert len(retried) == 1


def test_mlflow_shows_what_changed(pbt_sweep, run):
    sweep = pbt_sweep()
    run_sweep(sweep, InterruptingView(after_epochs=30))
    result = run(reopened(sweep))
    assert result.mlflow_complete
    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    runs = runs_of(sweep)
    assert len(runs) == 9
    trials = check_trials(sweep)
    for trial in trials:
        found = runs[str(trial.number)]
        assert found.info.status == "FINISHED"
        assert found.data.params["rate"] == str(trial.point["rate"])  # as it began
        tag = found.data.tags.get("thaw.schedule")
        assert tag == (describe_schedule(trial.schedule()) if trial.takeovers else None)
        shown = client.get_metric_history(found.info.run_id, "setting.rate")
        expected = [
            (epoch, trial.schedule_until(epoch)[-1].settings["rate"]) for epoch in trial.curve
        ]
        assert [(metric.step, metric.value) for metric in shown] == expected
    assert any(trial.takeovers for trial in trials)


def test_the_study_has_what_its_points_explain(pbt_sweep, run):
    sweep = pbt_sweep()
    run(sweep)
    study = study_of(sweep)
    for trial, told in zip(check_trials(sweep), study.trials, strict=True):
        assert told.params == trial.point
        if not trial.takeovers:
            assert told.state == optuna.trial.TrialState.COMPLETE
            assert told.value == trial.value("value", "max")
            continue
        last = trial.takeovers[0].epoch
        assert told.state == optuna.trial.TrialState.PRUNED
        assert told.value == trial.curve[last]["value"]
        assert sorted(told.intermediate_values) == list(range(1, last + 1))
        assert told.user_attrs["thaw.schedule"] == describe_schedule(trial.schedule())


def test_a_search_that_is_warm_started_hears_the_same(pbt_sweep, run):
    sweep = pbt_sweep()
    run(sweep)
    trials = check_trials(sweep)
    found = read_warm_start("pbt", pbt_sweep(name="next"))["trials"]
    assert len(found) == 8
    for trial, told in zip(trials, found, strict=True):
        assert told["point"] == trial.point
        assert told["state"] == ("pruned" if trial.takeovers else "completed")
        last = trial.takeovers[0].epoch if trial.takeovers else EPOCHS
        assert [epoch for epoch, _ in told["curve"]] == list(range(1, last + 1))


def test_a_member_that_diverges_ends_and_the_others_go_on(pbt_sweep, run):
    sweep = pbt_sweep("diverge_beyond=1.0", trials=10, seed=1)
    run(sweep)
    trials = check_trials(sweep)
    states = [trial.state for trial in trials]
    assert set(states) == {"completed", "infeasible"}
    assert states.count("completed") >= 6


def test_confirmation_runs_follow_the_schedule(pbt_sweep, run):
    sweep = pbt_sweep(confirm=2, confirm_seeds=2)
    run(sweep)
    history = read_history(sweep.folder)
    assert len(history.confirmations) == 4
    checked = 0
    for confirmation in history.confirmations.values():
        trial = history.trials[confirmation.confirms]
        best = trial.best_epoch("value", "max")
        for epoch in range(1, best + 1):
            schedule = schedule_of_best(sweep, trial)
            settings = [s.settings for s in schedule if s.first_epoch <= epoch][-1]
            assert confirmation.curve[epoch]["rate"] == settings["rate"]
        assert confirmation.curve[best]["value"] == trial.value("value", "max")
        checked += bool(trial.takeovers)
        assert not trial_folder(sweep.folder, confirmation.number).exists()
    assert checked  # or this test says nothing


def test_more_members_can_join_later(pbt_sweep, run):
    sweep = pbt_sweep()
    run(sweep)
    again = reopened(sweep, trials=12)
    run(again)
    trials = check_trials(again)
    assert {trial.state for trial in trials} == {"completed"}
    assert (trial_folder(sweep.folder, 0).parent).is_dir()
    assert sum((trial_folder(sweep.folder, t.number) / BEST).is_dir() for t in trials) == 3


BARE = """
from search_spaces.domains import Choice, SearchSpace

SPACE = SearchSpace(
    name="bare",
    task="image_classification",
    domains={"batch_size": Choice(16, 32), "freezing": Choice("none", "head")},
    fixed={"data": "digits", "image_size": 8},
)
"""


def test_what_can_be_no_population_is_refused(pbt_sweep, workplace):
    with pytest.raises(InputError, match=r"--trials = 3: must be at least 4"):
        pbt_sweep(trials=3)
    with pytest.raises(InputError, match=r"epochs = 1: must be at least 2"):
        pbt_sweep("epochs=1")
    Path("bare.py").write_text(BARE)
    with pytest.raises(
        InputError,
        match=r"nothing that may change .*batch_size, freezing.*; valid:"
        r" learning_rate, layer_decay, .*augmentation_strength",
    ):
        resolve(SweepOptions(space="bare.py", scheduler="pbt"))
    assert resolve(SweepOptions(space="bare.py", scheduler="none")).mutable == ()
    text = Path(FILE).read_text()
    Path("own.py").write_text(text.replace('MUTABLE = ("rate", "kind", "scale")', "MUTABLE = ()"))
    with pytest.raises(InputError, match="those that MUTABLE of the file names"):
        resolve(SweepOptions(space="own.py", metric="value:max", scheduler="pbt"))
    Path("own.py").write_text(text.replace('MUTABLE = ("rate",', 'MUTABLE = ("rat",'))
    with pytest.raises(InputError, match="MUTABLE: unknown domain 'rat'; valid: rate"):
        resolve(SweepOptions(space="own.py", metric="value:max", scheduler="pbt"))
    Path("own.py").write_text(text.replace('MUTABLE = ("rate", "kind", "scale")', 'MUTABLE = "r"'))
    with pytest.raises(InputError, match="must be a list of settings"):
        resolve(SweepOptions(space="own.py", metric="value:max", scheduler="pbt"))


def test_of_a_training_that_does_not_say_all_but_the_epochs_may_change(workplace):
    text = Path(FILE).read_text().replace('MUTABLE = ("rate", "kind", "scale")', "")
    text = text.replace('"rate": Float', '"epochs": Int(2, 8), "rate": Float')
    Path("own.py").write_text(text.replace('"epochs": 8, ', ""))
    sweep = resolve(SweepOptions(space="own.py", metric="value:max", scheduler="pbt"))
    assert sweep.mutable == ("rate", "width", "kind", "scale")


def test_one_space_holds_all_members(pbt_sweep):
    sweep = pbt_sweep()
    save_sweep(sweep)
    with pytest.raises(InputError, match="is a population, whose trials take over"):
        change_space(reopened(sweep), None, ["width=1"])
    assert tuple(reopened(sweep).mutable) == sweep.mutable


def lineage_curve(
    trials: list[TrialRecord], trial: TrialRecord, until: int
) -> dict[int, dict[str, float]]:
    """What the weights of a trial after an epoch reported on their way, in whichever trial."""
    before = [takeover for takeover in trial.takeovers if takeover.epoch < until]
    last = before[-1].epoch if before else 0
    donated = lineage_curve(trials, trials[before[-1].donor], last) if before else {}
    return donated | {epoch: trial.curve[epoch] for epoch in range(last + 1, until + 1)}


def test_a_replay_of_real_training_repeats_a_lineage_to_the_last_bit(workplace, run, tmp_path):
    rows = [f"{'good' if i % 2 else 'bad'} text {i},{i % 2}" for i in range(90)]
    Path("data.csv").write_text("\n".join(["text,label", *rows]))
    fixed = ["data=data.csv", "model=scratch:bert-tiny", "epochs=4", "max_tokens=16"]
    options = {"name": "texts", "engine": "inprocess", "trials": 4, "searcher": "random"}
    options["metric"] = "val_loss"  # which tells trials apart that have learned hardly anything
    sweep = resolve(
        SweepOptions(
            space="text_csv", settings=[*fixed, "freezing=none"], scheduler="pbt", **options
        )
    )
    assert sweep.mutable == ("learning_rate", "layer_decay", "weight_decay", "label_smoothing")
    run(sweep)
    trials = list(read_history(sweep.folder).trials.values())
    trial = max(trials, key=lambda trial: len(trial.schedule()))
    assert trial.takeovers
    schedule = configurations(sweep, trial, trial.schedule())
    again = TrainingRun(sweep.cache_folder, n_threads=local_resources(sweep).slot().n_threads)
    train = training_function(sweep.space.task, None)
    reports = list(replay(train, schedule, again, FolderStore(tmp_path), "scratch"))
    expected = lineage_curve(trials, trial, max(trial.curve))
    assert [report.epoch for report in reports] == sorted(expected)
    for report in reports:
        for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate"):
            assert report.metrics[name] == expected[report.epoch][name]
    rates = [report.metrics["learning_rate"] for report in reports]
    peak = {first: config["learning_rate"] for first, config in schedule}
    # The cosine's factor is that of the epoch, the rate below it that of the schedule.
    for report, rate in zip(reports, rates, strict=True):
        peak_now = [peak[first] for first in peak if first <= report.epoch][-1]
        assert rate <= peak_now
    assert len(set(peak.values())) > 1
