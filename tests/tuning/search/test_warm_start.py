"""What a sweep takes from an earlier one, and what it says of it."""

from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest
from helpers import TOY_SPACE, reopened, sweep_controller
from records import runs_of, study_of

from search_spaces.domains import Float, SearchSpace
from trainables.errors import InputError
from tuning.before_start.options import SweepOptions, resolve
from tuning.control.controller import Controller
from tuning.record.events import Record, TrialRecord, read_history
from tuning.record.resources import Resources
from tuning.search.plan import SearchPlan
from tuning.search.samplers import search_notes
from tuning.search.study import Study
from tuning.search.warm_start import warm_trials
from tuning.storage.saved_sweeps import save_sweep
from tuning.tracking.optuna_storage import make_mirror


@pytest.fixture
def earlier(toy_sweep):
    """A finished sweep of 20 trials: some were stopped, and beyond 0.8 all diverged."""
    sweep = toy_sweep("epochs=6", "fault=diverge", "fault_beyond=0.8", name="earlier", trials=20)
    save_sweep(sweep)
    record, generator = Record(sweep.folder), random.Random(0)
    mirror = make_mirror(sweep, record, print)
    mirror.start()
    for number in range(20):
        point = sweep.space.sample(generator)
        config = sweep.configuration(point)
        record.append("trial_started", trial=number, point=point, config=config)
        state = "infeasible" if point["x"] > 0.8 else ("completed", "pruned")[number % 2]
        for epoch in range(1, 7 if state == "completed" else 3):
            metrics = {"value": (1 - point["x"]) * epoch, "x": point["x"]}
            record.append("epoch", trial=number, epoch=epoch, metrics=metrics)
        record.append("trial_ended", trial=number, state=state, error=None)
    mirror.close()
    record.close()
    return sweep


def note_of(sweep) -> str:
    return sweep.warm_start["note"]


def test_all_that_fits_is_told_before_the_first_proposal(toy_sweep, earlier, run, view):
    sweep = toy_sweep("epochs=6", name="later", warm_start="earlier", trials=4)
    told = warm_trials(sweep)
    records = read_history(earlier.folder).trials
    assert [trial.point for trial in told] == [record.point for record in records.values()]
    assert {trial.state for trial in told} == {"completed", "pruned", "infeasible"}
    objectives = sweep.objectives
    completed = [
        (t, r) for t, r in zip(told, records.values(), strict=True) if t.state == "completed"
    ]
    assert all(t.values(objectives) == r.values(objectives) for t, r in completed)
    assert note_of(sweep) == (
        "warm start from sweep earlier: 20 of 20 trials used; fixed otherwise then: "
        "fault, fault_beyond"
    )
    assert note_of(sweep) in search_notes(sweep)
    summary = run(sweep).summary
    assert sum(summary["trials"].values()) == 4
    assert summary["best"]["trial"] < 4
    assert note_of(sweep) in view.messages
    assert list(read_history(sweep.folder).trials) == [0, 1, 2, 3]
    assert len(study_of(sweep).trials) == 4
    assert {name for name in runs_of(sweep) if name != "parent"} >= {"0", "1", "2", "3"}
    assert reopened(sweep).warm_start == sweep.warm_start


def controller_of(sweep) -> Controller:
    sweep.folder.mkdir(parents=True, exist_ok=True)
    return sweep_controller(sweep, Record(sweep.folder), Resources(1.0, 0.0, 1))


def test_the_sampler_knows_them_also_after_a_resume(toy_sweep, earlier):
    sweep = toy_sweep("epochs=6", name="later", warm_start="earlier", trials=4)
    save_sweep(sweep)
    for each in (sweep, reopened(sweep)):
        controller = controller_of(each)
        known = controller.kinds["trial"]._study._optuna.study.get_trials()
        assert len(known) == 20
        assert controller.propose().trial == 0
        assert read_history(sweep.folder).trials[0].point == {"x": 0.5, "kind": "plain"}
        controller.close()
        (sweep.folder / "events.jsonl").unlink()


def test_a_warm_search_begins_where_the_earlier_one_ended():
    space = SearchSpace(name="bowl", domains={"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})

    def loss(point) -> float:
        return abs(point["x"] - 0.3) + abs(point["y"] - 0.7)

    for searcher in ("tpe", "nsga2"):
        plan = SearchPlan(space, searcher, "none", directions=("min",))
        first = Study(plan)
        records = []
        for number in range(100):
            point = first.ask(number)
            first.tell(number, "completed", loss(point))
            curve = {1: {"loss": loss(point)}}
            records.append(TrialRecord(-1, {}, point, state="completed", curve=curve))
        means = {}
        for warm in (False, True):
            study = Study(plan)
            study.learn(records if warm else (), {"loss": "min"})
            means[warm] = sum(loss(study.ask(number)) for number in range(8)) / 8
        assert means[True] < 0.6 * means[False], searcher


def test_of_an_overlapping_space_what_fits_is_used_and_the_rest_is_named(
    toy_sweep, earlier, workplace
):
    text = Path(TOY_SPACE).read_text()
    narrowed = text.replace('"x": Float(0.0, 1.0)', '"x": Float(0.0, 0.6)').replace(
        'Choice("plain", "scaled")', 'Choice("scaled", "other")'
    )
    (workplace / "narrow.py").write_text(narrowed.replace('"kind": "plain"}', '"kind": "other"}'))
    options = {"metric": "value:max", "engine": "inprocess", "warm_start": "earlier"}
    sweep = resolve(SweepOptions(space="narrow.py", name="narrow", **options))
    records = read_history(earlier.folder).trials.values()
    fits = [r for r in records if r.point["kind"] == "scaled" and r.point["x"] <= 0.6]
    assert 0 < len(fits) < 20
    assert [trial.point for trial in warm_trials(sweep)] == [record.point for record in fits]
    beyond = sum(record.point["x"] > 0.6 for record in records)
    assert f"{len(fits)} of 20 trials used; dropped" in note_of(sweep)
    assert f"{beyond} (x outside of its domain)" in note_of(sweep)
    assert f"{20 - beyond - len(fits)} (kind outside of its domain)" in note_of(sweep)


def test_what_was_fixed_then_counts_and_what_was_searched_otherwise_does_not(toy_sweep, earlier):
    # `kind` was searched: only its plain trials tell of a sweep that is all plain
    plain = toy_sweep("kind=plain", name="plain", warm_start="earlier")
    records = read_history(earlier.folder).trials.values()
    n_plain = sum(record.point["kind"] == "plain" for record in records)
    assert [set(trial.point) for trial in warm_trials(plain)] == [{"x"}] * n_plain
    assert f"{20 - n_plain} (kind is plain here)" in note_of(plain)


def test_a_setting_that_was_fixed_then_may_be_searched_now(toy_sweep, run, workplace):
    run(toy_sweep("kind=plain", name="plain", trials=4, scheduler="none"))
    wide = toy_sweep(name="wide", warm_start="plain")
    assert [trial.point["kind"] for trial in warm_trials(wide)] == ["plain"] * 4
    text = Path(TOY_SPACE).read_text().replace('"x": Float', '"new": Float(0.0, 1.0),\n"x": Float')
    (workplace / "more.py").write_text(text)
    options = {"metric": "value:max", "engine": "inprocess", "warm_start": "plain"}
    more = resolve(SweepOptions(space="more.py", name="more", **options))
    assert warm_trials(more) == []
    assert "0 of 4 trials used; dropped 4 (no new)" in note_of(more)


def make_study(storage: str, name: str, direction: str = "maximize") -> None:
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("kind", ["plain"])
        trial.report(x, 1)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise RuntimeError("broken")
        return x

    study.optimize(objective, n_trials=5, catch=(RuntimeError,))


def test_an_optuna_study_may_be_named_instead(toy_sweep, workplace):
    make_study("sqlite:///old.db", "one")
    sweep = toy_sweep(warm_start="sqlite:///old.db")
    assert [trial.state for trial in warm_trials(sweep)] == [
        "completed", "pruned", "completed", "completed",
    ]  # fmt: skip
    assert note_of(sweep) == "warm start from study one: 4 of 5 trials used; dropped 1 (failed)"
    make_study("sqlite:///old.db", "two", "minimize")
    with pytest.raises(InputError, match="has the studies one, two; name one after a #"):
        toy_sweep(warm_start="sqlite:///old.db")
    assert len(warm_trials(toy_sweep(warm_start="sqlite:///old.db#one"))) == 4
    with pytest.raises(InputError, match="compared by value:min, and this sweep is by value:max"):
        toy_sweep(warm_start="sqlite:///old.db#two")


def test_the_journal_of_a_sweep_may_be_named(toy_sweep, earlier):
    journal = earlier.folder / "study.journal"
    sweep = toy_sweep("epochs=6", name="later", warm_start=str(journal))
    from_sweep = toy_sweep("epochs=6", name="other", warm_start="earlier")
    told, same = (warm_trials(each) for each in (sweep, from_sweep))
    assert [(t.point, t.state) for t in told] == [(t.point, t.state) for t in same]
    values = [t.values(sweep.objectives) for t in told if t.state == "completed"]
    assert values == [t.values(sweep.objectives) for t in same if t.state == "completed"]


def test_of_several_metrics_those_that_are_asked_for_now_are_enough(toy_sweep, workplace, run):
    both = toy_sweep(name="both", trials=9, metric=["value:max", "x:min"], scheduler="asha")
    save_sweep(both)
    run(both)
    later = toy_sweep(name="later", warm_start="both")
    save_sweep(later)
    assert note_of(later).startswith("warm start from sweep both: 9 of 9 trials used")
    assert all(
        set(metrics) == {"value"} for t in warm_trials(later) for metrics in t.curve.values()
    )
    with pytest.raises(
        InputError, match="compared by value:max, and this sweep is by value:max an"
    ):
        toy_sweep(name="last", warm_start="later", metric=["value:max", "x:min"])

    # A study keeps of a pruned trial the first metric only.
    journal = both.folder / "study.journal"
    by_x = toy_sweep(name="by_x", metric="x:min", warm_start=str(journal))
    counts = read_history(both.folder).n_in_state
    assert counts["pruned"] > 0
    used = f"{counts['completed']} of 9 trials used; dropped {counts['pruned']} (no value)"
    assert used in note_of(by_x)
    run(by_x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_start": "earliest"}, "^unknown sweep 'earliest'; valid: earlier"),
        ({"warm_start": "earlier", "metric": "x:min"}, "compared by value:max, and this sweep is"),
        ({"warm_start": "sqlite:////nowhere/at.db"}, "can not be used as a study's storage"),
        ({"warm_start": "sqlite://a:b/at.db"}, "can not be used as a study's storage"),
        ({"warm_start": "sqlite:///nothing.db#x"}, "there is no such file"),
        ({"warm_start": "journal://nothing"}, "there is no such file"),
    ],
)
def test_what_can_not_be_used_is_refused(toy_sweep, earlier, options, message):
    with pytest.raises(InputError, match=message):
        toy_sweep(**{"name": "later", **options})
    assert not Path("nothing.db").exists()
