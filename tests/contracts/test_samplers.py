"""What every sampler must hold over every space, and what a search knows when it is resumed."""

from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest
from examples import N_SPACES
from helpers import OWN, TOY_SPACE, reopened
from toy_space import SPACE as TOY

from search_spaces.domains import Choice, Float, SearchSpace
from trainables.errors import InputError
from trainables.tasks.table import task_row
from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.spaces import load_space, space_names
from tuning.record.events import TrialRecord, read_history
from tuning.record.methods import SCHEDULERS, SEARCHERS
from tuning.search.plan import SearchPlan
from tuning.search.samplers import make_sampler, sampled_by_itself
from tuning.search.starting_points import with_defaults_first
from tuning.search.study import Study

N_SAMPLERS = 9
OWN_NAMES = [f"{OWN}:{name}" for name in ("Corner", "population_of_four")]
OBJECTIVES = {"loss": "min"}
EPOCHS = 6
# In an order that has all of them early; two thirds are completed, for models that need ten.
STATES = ("completed", "pruned", "completed", "infeasible", "completed", "failed", "completed")


def make_study(space: SearchSpace, searcher: str, **options) -> Study:
    defaults = {"scheduler": "asha", "directions": ("min",), "epochs": EPOCHS}
    return Study(SearchPlan(space, searcher, **{**defaults, **options}))


def loss(point: dict) -> float:
    return sum(abs(value - 0.3) for value in point.values() if isinstance(value, float))


class Driver:
    """Runs trials through a study as a controller does, four at a time, and keeps their records."""

    def __init__(self, study: Study, seed: int = 0) -> None:
        self.study = study
        self.records: dict[int, TrialRecord] = {}
        self.running: list[int] = []
        self._generator = random.Random(seed)
        self._now = 1.0

    def run(self, n_trials: int) -> Driver:
        for _ in range(n_trials):
            number = len(self.records)
            point = self.study.ask(number)
            self._now += 1
            self.records[number] = TrialRecord(number, dict(point), point, started=self._now)
            self.running.append(number)
            if len(self.running) == 4:
                self.end(self.running.pop(self._generator.randrange(4)))
        return self

    def end(self, number: int) -> None:
        record = self.records[number]
        state = STATES[number % len(STATES)]
        n_epochs = EPOCHS if state == "completed" else 2
        for epoch in range(1, n_epochs + 1):
            value = loss(record.point) + 1 / epoch
            record.curve[epoch] = {"loss": value, "cost": sum(map(len, record.point))}
            self.study.report(number, epoch, value)
        values = record.values(OBJECTIVES)
        self.study.tell(number, state, values[0])
        self._now += 1
        record.state, record.ended = state, self._now


def test_every_row_makes_what_optuna_takes():
    assert len(SEARCHERS) == N_SAMPLERS
    assert all(isinstance(row.make(1), optuna.samplers.BaseSampler) for row in SEARCHERS.values())
    assert all(isinstance(row.make(5), optuna.pruners.BasePruner) for row in SCHEDULERS.values())
    for row in (*SEARCHERS.values(), *SCHEDULERS.values()):
        assert 5 < len(row.summary) < 70
    assert len(space_names()) == N_SPACES


@pytest.mark.timeout(400)
@pytest.mark.parametrize("space_name", space_names())
@pytest.mark.parametrize("searcher", [*SEARCHERS, *OWN_NAMES], ids=lambda name: name.split("/")[-1])
def test_it_proposes_what_is_valid_and_the_same_for_the_same_seed(searcher, space_name):
    space = load_space(space_name).space
    space = with_defaults_first(space, task_row(space.task).config_type)  # as every sweep has it
    n_trials = 22 if searcher != "gp" else 16  # its model proposes the last, which takes a second
    runs = [Driver(make_study(space, searcher)).run(n_trials) for _ in range(2)]
    points = [record.point for record in runs[0].records.values()]
    assert points[0] == space.starting_points[0]  # so that no sweep is worse than the defaults
    assert points == [record.point for record in runs[1].records.values()]
    for point in points:
        assert all(space.domains[name].contains(value) for name, value in point.items())
        assert list(point) == [n for n in space.domains if space.is_active(n, point)]
    states = {record.state for record in runs[0].records.values()}
    assert states == {*STATES, "running"}
    if "Corner" not in searcher:
        assert len({str(point) for point in points}) > n_trials - 5  # small spaces repeat some


@pytest.mark.parametrize(
    "searcher", [*SEARCHERS, OWN_NAMES[1]], ids=lambda name: name.split("/")[-1]
)
def test_a_resumed_search_knows_what_it_knew_and_proposes_something_new(searcher):
    space = load_space("digits").space
    driver = Driver(make_study(space, searcher)).run(16)
    known = list(driver.records.values())
    runs = []
    for _ in range(2):
        again = make_study(space, searcher, n_known=len(known))
        again.restore_all(known, OBJECTIVES)
        trials = [study._optuna.study.get_trials() for study in (driver.study, again)]
        for first, second in zip(*trials, strict=True):
            for name in ("number", "state", "values", "params", "intermediate_values"):
                assert getattr(first, name) == getattr(second, name), name
            assert first.constraints == second.constraints
        runs.append([again.ask(number) for number in range(16, 17 if searcher == "gp" else 19)])
    assert runs[0] == runs[1]
    points = [record.point for record in known] + runs[0]
    assert all(point not in points[:place] for place, point in enumerate(points) if place >= 16)


def test_a_changed_space_does_not_lose_what_still_fits():
    driver = Driver(make_study(TOY, "nsga2")).run(14)
    narrowed = SearchSpace(
        name="toy", domains={**TOY.domains, "x": Float(0.0, 0.6)}, fixed=TOY.fixed
    )
    for searcher in ("nsga2", "tpe"):
        study = make_study(narrowed, searcher, n_known=14)
        study.restore_all(list(driver.records.values()), OBJECTIVES)
        fits = [record for record in driver.records.values() if record.point["x"] <= 0.6]
        assert 0 < len(fits) < 14
        told = study._optuna.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        ended = [r for r in fits if r.state in ("completed", "infeasible")]
        # in the order in which they ended, or in which they began
        assert {str(trial.params) for trial in told} == {str(record.point) for record in ended}
        assert 0 <= study.ask(14)["x"] <= 0.6


def share_beyond(searcher: str, state: str, n_trials: int, n_late: int, n_seeds: int) -> float:
    """Of the late proposals, those where training diverges. The value is best at its brink."""
    space = SearchSpace(name="cliff", domains={"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
    late = []
    for seed in range(n_seeds):
        study = make_study(space, searcher, scheduler="none", seed=seed)
        for number in range(n_trials):
            x = study.ask(number)["x"]
            late += [x > 0.3] if number >= n_trials - n_late else []
            study.tell(number, *((state,) if x > 0.3 else ("completed", -x)))
    return sum(late) / len(late)


@pytest.mark.parametrize("searcher", ["tpe", "cmaes", "nsga2", "nsga3"])
def test_it_learns_where_training_diverges(searcher):
    share = share_beyond(searcher, "infeasible", 60, 20, n_seeds=4)
    assert share < 0.55  # at random: 0.7
    assert share < 0.75 * share_beyond(searcher, "failed", 60, 20, n_seeds=4)


@pytest.mark.timeout(400)
def test_gp_learns_where_training_diverges():
    assert share_beyond("gp", "infeasible", 18, 6, n_seeds=1) <= 0.5


def test_what_is_sampled_by_itself_is_said():
    digits = load_space("digits").space
    assert sampled_by_itself("tpe", digits) is None
    conditional = "frozen_blocks, thaw_every_epochs, layer_decay"
    assert sampled_by_itself("gp", digits) == (
        f"--searcher gp samples conditional settings each by itself, by TPE: {conditional}"
    )
    assert "batch_size" in sampled_by_itself("cmaes", digits)
    flat = SearchSpace(name="flat", domains={"x": Float(0, 1), "y": Choice("a", "b")})
    assert sampled_by_itself("gp", flat) is None
    assert sampled_by_itself("cmaes", flat).endswith(": y")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Cornr", "unknown sampler 'Cornr'; valid: Corner"),
        ("not_a_sampler", "made a int; it must be an optuna.samplers.BaseSampler"),
        ("broken", "raised RuntimeError: out of luck"),
    ],
)
def test_what_is_no_sampler_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        make_sampler(f"{OWN}:{name}", 0)


def test_a_file_that_is_not_there_is_refused(workplace):
    with pytest.raises(InputError, match=r"there is no Python file 'nothing\.py'"):
        resolve(SweepOptions(space=TOY_SPACE, metric="value:max", searcher="nothing.py:Sampler"))


def test_a_sampler_without_a_seed_is_made_without_one():
    assert make_sampler(f"{OWN}:WithoutSeed", 3)


def test_a_sweep_keeps_its_own_copy_of_the_users_sampler(toy_sweep, run, workplace):
    file = workplace / "mine.py"
    file.write_text(Path(OWN).read_text())
    sweep = toy_sweep(trials=4, searcher="mine.py:Corner", scheduler="none")
    run(sweep)
    file.unlink()
    again = reopened(sweep, trials=6)
    assert again.searcher == f"{sweep.folder}/searcher/mine.py:Corner"
    run(again)
    points = [trial.point for trial in read_history(sweep.folder).trials.values()]
    assert [point["x"] for point in points] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
