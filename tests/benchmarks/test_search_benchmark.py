"""The benchmark of the search: its tables, its simulator, its peers, on curves known in advance."""

from __future__ import annotations

import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import BENCHMARKS

from search_spaces.domains import Choice, Float, Int, SearchSpace

sys.path.append(str(BENCHMARKS))  # its scripts are run from there; last, so that nothing is hidden

from curve_tables import CurveTable, Surrogate, TableError, load_surrogate, load_table
from search_peers import PEERS
from search_report import Comparison, find_goals, goal_table, regret_table
from search_simulator import Leg, SimulationError, Trajectory, simulate

SPACE = SearchSpace(
    name="toy",
    domains={
        "rate": Float(1e-4, 1.0, log=True),
        "kind": Choice("slow", "fast"),
        "depth": Int(1, 8, when={"kind": "slow"}),
    },
)
N_EPOCHS = 9


def toy_curve(point, seed):
    """Slow ones end higher; 1.0 is never reached. A slow epoch takes two seconds."""
    best = 0.9 if point["kind"] == "slow" else 0.7
    end = best - 0.1 * abs(math.log10(point["rate"]) + 2) - 0.01 * point.get("depth", 1)
    pace = 0.4 if point["kind"] == "slow" else 2.0
    values = [end * (1 - math.exp(-pace * epoch)) for epoch in range(1, N_EPOCHS + 1)]
    return point, values, [2.0 if point["kind"] == "slow" else 1.0] * N_EPOCHS


def surrogate(curve=toy_curve) -> Surrogate:
    return Surrogate("toy", SPACE, "accuracy", "max", N_EPOCHS, 1.0, 0.5, 1.5, curve)


def table(n_configurations: int = 20, n_seeds: int = 2) -> CurveTable:
    generator = random.Random(0)
    points = [SPACE.sample(generator) for _ in range(n_configurations)]
    curves = [toy_curve(point, 0) for point in points]
    values = np.array(
        [[np.array(curve[1]) - 0.001 * s for s in range(n_seeds)] for curve in curves]
    )
    seconds = np.array([curve[2] for curve in curves])
    return CurveTable("toy", SPACE, points, values, seconds, "accuracy", "max", source="a formula")


class Listed:
    """Runs the legs it was given, in order; ends a trial's leg after the epoch in ``stop_at``."""

    def __init__(self, legs, stop_at=None):
        self.legs, self.stop_at, self.heard = list(legs), stop_at or {}, []

    def __call__(self, space, direction, epochs, n_workers, budget_epochs, seed):
        return self

    def next(self):
        return self.legs.pop(0) if self.legs else None

    def observe(self, trial, epoch, value, seconds):
        self.heard.append((trial, epoch))
        return self.stop_at.get(trial) == epoch


FAST = {"rate": 0.01, "kind": "fast"}
SLOW = {"rate": 0.01, "kind": "slow", "depth": 1}


def test_a_table_is_read_as_it_was_written(tmp_path):
    written = table()
    written.save(tmp_path / "toy.npz")
    read = load_table(tmp_path / "toy.npz")
    assert read.space.to_json() == written.space.to_json()
    assert read.configurations == written.configurations
    assert (read.metric, read.direction, read.source) == ("accuracy", "max", "a formula")
    np.testing.assert_allclose(read.values, written.values, rtol=1e-6)
    np.testing.assert_allclose(read.seconds_per_epoch, written.seconds_per_epoch)


def test_a_listed_point_gets_its_own_curve_and_another_the_nearest():
    listed = table()
    toy = listed.surrogate()
    for row, point in enumerate(listed.configurations):
        evaluated, values, seconds = toy.curve(point, 3)
        assert evaluated == point
        np.testing.assert_array_equal(values, listed.values[row, 1])  # seeds repeat
        np.testing.assert_array_equal(seconds, listed.seconds_per_epoch[row])
    point = {"rate": 0.001, "kind": "slow", "depth": 4}
    evaluated, _, _ = toy.curve(point, 0)
    slow = [other for other in listed.configurations if other["kind"] == "slow"]
    assert evaluated == min(
        slow,
        key=lambda other: (
            abs(math.log10(other["rate"] / point["rate"])) / 4
            + abs(other["depth"] - point["depth"]) / 7
        ),
    )


def test_regret_is_0_at_the_best_value_and_1_at_the_median_configuration():
    listed = table()
    toy = listed.surrogate()
    assert toy.regret(listed.values.max()) == 0.0
    assert toy.regret(float(np.median(listed.values[:, :, -1].mean(axis=1)))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "up"}, "direction = 'up'; valid: max, min"),
        ({"values": np.zeros((3, 2, 9))}, "values have shape"),
        ({"seconds_per_epoch": np.zeros(3)}, "seconds_per_epoch have shape"),
        ({"configurations": [{"rate": 9.0, "kind": "fast"}] * 20}, "rate = 9.0; valid"),
        ({"configurations": [{**FAST, "depth": 2}] * 20}, "depth does not apply"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change, message):
    listed = table()
    fields = {name: getattr(listed, name) for name in listed.__dataclass_fields__}
    with pytest.raises(TableError, match=message):
        CurveTable(**{**fields, **change})


def test_a_file_that_is_no_table_is_refused(tmp_path):
    for name, content, message in (
        ("a.npz", b"nonsense", "can not be read"),
        ("a.csv", b"", "valid: .npz, .py"),
        ("a.py", b"SPACE = 1", "does not define METRIC"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=message):
            load_surrogate(tmp_path / name)
    with pytest.raises(TableError, match="no such file"):
        load_surrogate(tmp_path / "b.py")


def test_a_python_file_stands_in_for_a_table(tmp_path):
    path = tmp_path / "line.py"
    path.write_text(
        "from search_spaces.domains import Float, SearchSpace\n"
        "SPACE = SearchSpace(name='line', domains={'x': Float(0.0, 1.0)})\n"
        "METRIC, DIRECTION, EPOCHS, BEST = 'loss', 'min', 3, 0.0\n"
        "def curve(point, seed):\n"
        "    return point, [point['x']] * 3, [2.0] * 3\n"
    )
    line = load_surrogate(path)
    assert (line.name, line.n_epochs, line.mean_epoch_seconds) == ("line", 3, 2.0)
    assert line.median == pytest.approx(0.5, abs=0.1)
    assert line.regret(0.0) == 0.0


def test_one_worker_trains_one_epoch_after_another():
    searcher = Listed([Leg(0, FAST), Leg(1, SLOW)])
    result = simulate(surrogate(), searcher, n_workers=1, seed=0)
    assert searcher.heard == [(t, e) for t in (0, 1) for e in range(1, 10)]
    assert (result.n_epochs, result.n_trials, result.end_seconds) == (18, 2, 9 * 1.0 + 9 * 2.0)
    values = toy_curve(FAST, 0)[1]
    assert result.regret_at(1 / 270) == pytest.approx((1.0 - values[0]) / 0.5)
    assert result.regret_at(0.5) == pytest.approx((1.0 - toy_curve(SLOW, 0)[1][-1]) / 0.5)
    assert result.share_to_reach((1.0 - values[2]) / 0.5 + 1e-12) == 3 / 270
    assert result.share_to_reach(0.0) == math.inf


def test_four_workers_train_side_by_side():
    searcher = Listed([Leg(number, (FAST, SLOW)[number % 2]) for number in range(5)])
    result = simulate(surrogate(), searcher, n_workers=4, seed=0)
    # Trials 0 and 2 end at 9 s; trial 4 begins then, and ends with the slow ones, at 18 s.
    assert (result.n_epochs, result.end_seconds) == (45, 18.0)
    assert searcher.heard[:2] == [(0, 1), (2, 1)]
    assert [trial for trial, epoch in searcher.heard if epoch == 9] == [0, 2, 1, 3, 4]


def test_a_leg_that_goes_on_repeats_nothing():
    legs = [Leg(0, SLOW, until=3), Leg(1, FAST), Leg(0, SLOW, until=5), Leg(0, SLOW)]
    searcher = Listed(legs, stop_at={1: 2})
    result = simulate(surrogate(), searcher, n_workers=1, seed=0)
    first, second = [(0, 1), (0, 2), (0, 3)], [(1, 1), (1, 2)]
    assert searcher.heard == [*first, *second, *((0, epoch) for epoch in range(4, 10))]
    assert result.end_seconds == 9 * 2.0 + 2 * 1.0
    assert result.n_trials == 2


@pytest.mark.parametrize("n_workers", [1, 4, 16])
def test_the_budget_is_not_exceeded(n_workers):
    searcher = Listed([Leg(number, FAST) for number in range(99)])
    result = simulate(surrogate(), searcher, n_workers=n_workers, seed=0, budget_epochs=40)
    assert result.n_epochs == len(searcher.heard) == 40


def test_a_worker_waits_until_something_is_observed():
    class Waiting(Listed):
        def next(self):
            ready = len(self.legs) == 3 or (0, 9) in self.heard
            return super().next() if ready else None

    searcher = Waiting([Leg(0, FAST), Leg(1, FAST), Leg(2, FAST)])
    result = simulate(surrogate(), searcher, n_workers=4, seed=0)
    assert (result.n_epochs, result.end_seconds) == (27, 18.0)


def test_what_diverged_does_not_go_on():
    def curve(point, seed):
        point, values, seconds = toy_curve(point, seed)
        return point, [*values[:2], *[math.nan] * 7], seconds

    searcher = Listed([Leg(0, FAST), Leg(1, FAST)])
    result = simulate(surrogate(curve), searcher, n_workers=1, seed=0)
    assert searcher.heard == [(t, e) for t in (0, 1) for e in (1, 2, 3)]
    assert not math.isnan(result.regrets[-1])
    with pytest.raises(SimulationError, match="it ended after epoch 3"):
        simulate(surrogate(curve), Listed([Leg(0, FAST)] * 2), n_workers=1, seed=0)


def test_a_trial_runs_once_at_a_time_with_one_point():
    for second, n_workers, message in (
        (Leg(0, SLOW), 2, "it is running"),
        (Leg(0, FAST), 1, "its point is"),
        (Leg(0, SLOW, until=2), 1, "it has reached epoch 2"),
    ):
        searcher = Listed([Leg(0, SLOW, until=2), second])
        with pytest.raises(SimulationError, match=message):
            simulate(surrogate(), searcher, n_workers=n_workers, seed=0)


class Recorder:
    """Hears what a searcher asks for, and checks that it keeps to its trials and the space."""

    def __init__(self, make, curve=toy_curve):
        self._make, self.legs, self.epochs = make, [], {}

    def __call__(self, *arguments):
        self._searcher = self._make(*arguments)
        return self

    def next(self):
        leg = self._searcher.next()
        if leg is not None:
            self.legs.append(leg)
            chosen = {}
            for name, domain in SPACE.domains.items():
                if SPACE.is_active(name, chosen):
                    assert domain.contains(leg.point[name])
                    chosen[name] = leg.point[name]
            assert chosen == leg.point
        return leg

    def observe(self, trial, epoch, value, seconds):
        assert epoch == self.epochs.get(trial, 0) + 1
        self.epochs[trial] = epoch
        return self._searcher.observe(trial, epoch, value, seconds)


def diverging_curve(point, seed):
    point, values, seconds = toy_curve(point, seed)
    return point, values if seed % 4 else [*values[:1], *[math.nan] * 8], seconds


@pytest.fixture(scope="session")
def _dehb_offline():
    """Leaves no test to the network: DEHB's environment is there already, or it is not tested."""
    from search_dehb import DEHB_VERSION

    if not shutil.which("uv"):
        pytest.skip("needs uv")
    command = ["uv", "run", "--quiet", "--offline", "--no-project", "--with"]
    command += [f"dehb=={DEHB_VERSION}", "python", "-c", ""]
    if subprocess.run(command, capture_output=True, timeout=60).returncode:
        pytest.skip("DEHB's environment is not in uv's cache")
    os.environ["UV_OFFLINE"] = "1"
    yield
    del os.environ["UV_OFFLINE"]


@pytest.mark.parametrize("curve", [toy_curve, diverging_curve], ids=["all_finite", "some_diverge"])
@pytest.mark.parametrize("name", PEERS)
def test_each_peer_spends_its_budget_and_learns(name, curve, request):
    if name == "dehb":
        request.getfixturevalue("_dehb_offline")
    peer = PEERS[name]
    recorder = Recorder(peer.make)
    budget = 15 * N_EPOCHS * peer.budget_factor
    result = simulate(surrogate(curve), recorder, n_workers=4, seed=1, budget_epochs=budget)
    assert budget - N_EPOCHS < result.n_epochs <= budget
    assert result.n_epochs == sum(recorder.epochs.values())
    assert peer.version()
    assert max(recorder.epochs.values()) == N_EPOCHS
    assert result.regret_at(1.0) < result.regret_at(0.1)
    if peer.make is not PEERS["random"].make:
        assert min(recorder.epochs.values()) < N_EPOCHS  # stopped early
        assert result.n_trials > 15


def test_a_peer_repeats_itself_from_its_seed():
    for name in ("random", "ray_optuna_asha", "optuna_hyperband"):
        first, second, other = (Recorder(PEERS[name].make) for _ in range(3))
        for recorder, seed in ((first, 1), (second, 1), (other, 2)):
            simulate(surrogate(), recorder, n_workers=2, seed=seed, budget_epochs=60)
        assert first.legs == second.legs
        assert first.legs != other.legs


def trajectory(regrets, budget_epochs=100, pace=1.0):
    """Regrets after each of the first epochs, each of which takes ``pace`` seconds."""
    epochs = list(range(1, len(regrets) + 1))
    seconds = [pace * epoch for epoch in epochs]
    return Trajectory(budget_epochs, budget_epochs, epochs, seconds, list(regrets), 100, 10, 100.0)


def test_goals_are_the_median_search_against_the_best_peer():
    comparison = Comparison("toy", 4)
    comparison.runs["thaw"] = [trajectory([0.9, 0.5, 0.1])] * 2 + [trajectory([0.9])]
    comparison.runs["random"] = [trajectory([0.9] * 40 + [0.5])] * 3
    comparison.runs["random_twice"] = [trajectory([0.9] * 40 + [0.05])] * 3
    comparison.runs["dehb"] = [trajectory([0.9] * 50 + [0.3])] * 3
    goals = {goal.name: goal for goal in find_goals(comparison)}
    assert goals["budget to the best peer's end"].value == pytest.approx(0.03, abs=2e-3)
    assert goals["budget to the best peer's end"].note == "dehb"
    assert goals["budget to random search's end"].value == pytest.approx(0.02, abs=2e-3)
    twice = goals["end regret, of random's with twice the budget"]
    assert (twice.value, twice.bound, twice.reached) == (0.1, 0.05, False)
    assert [goal.bound for goal in goals.values()][3:] == [0.9, 0.9, 0.5, 0.3]
    assert "6 of 7 reached by epochs" in goal_table([comparison])
    assert "| dehb | 0.900 (0.900–0.900) |" in regret_table(comparison)


def test_goals_by_time_do_not_wait_for_a_search_that_leaves_workers_idle():
    comparison = Comparison("toy", 64)
    comparison.runs["thaw"] = [trajectory([0.9, 0.5, 0.1, 0.07])] * 3
    comparison.runs["random"] = [trajectory([0.9, 0.05], pace=60.0)] * 3  # ends after 120 of 100
    comparison.runs["random_twice"] = [trajectory([0.9, 0.01], 200, pace=60.0)] * 3
    by_epochs, by_time = (find_goals(comparison, of=of) for of in ("epochs", "seconds"))
    assert [goal.name for goal in by_epochs] == [goal.name for goal in by_time]
    assert [goal.bound for goal in by_epochs] == [0.6, 0.25, 0.01, 0.05, 0.05, 0.05, 0.05]
    # By time random has no epoch at first, one at the end, and both only with twice the time.
    assert [goal.bound for goal in by_time] == [0.6, 0.25, 0.01, math.inf, math.inf, math.inf, 0.9]
    assert by_epochs[0].value == math.inf
    assert by_time[0].value == pytest.approx(0.01, abs=2e-3)
    shown = goal_table([comparison])
    assert "0 of 7 reached by epochs, 6 of 7 reached by time." in shown
    row = "regret at 1 of the budget, of the best | 0.070"
    assert f"| toy | 64 | epochs | {row} | 0.050 | random | **no** |" in shown
    assert f"| toy | 64 | time | {row} | 0.900 | random | yes |" in shown


@pytest.mark.long
def test_the_command_compares_a_searcher_with_peers_and_keeps_their_runs(tmp_path):
    table().save(tmp_path / "toy.npz")
    (tmp_path / "search_mine.py").write_text("from search_peers import RandomSearch as make\n")
    command = [sys.executable, str(BENCHMARKS / "search.py"), "--table", "toy.npz", "--workers"]
    command += ["1", "4", "--seeds", "2", "--peers", "random", "random_twice", "--full-trainings"]
    command += ["5", "--searcher", "search_mine.py", "--goals-of", "mine", "--json", "runs.json"]
    command += ["--picture", "toy.png"]
    first, second = (
        subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
        )
        for _ in range(2)
    )
    assert "16 of 16 runs" in first.stderr
    assert "8 of 8 runs" in second.stderr  # what is not a peer's may have changed
    assert first.stdout == second.stdout
    assert "### toy, 4 workers" in first.stdout
    for of in ("epochs", "time"):
        assert f"of 14 reached by {of}" in first.stdout
    assert (tmp_path / "toy.png").stat().st_size > 10_000
    assert (tmp_path / "toy_time.png").is_file()


@pytest.fixture
def _one_thread():
    """As the tables are made: for networks this small, threads only wait for each other."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("_one_thread")
def test_networks_are_trained_for_each_seed():
    from table_data import load_data
    from table_training import make_cnn, make_mlp, train_curve

    data = load_data("digits", Path(), n_train=300, n_val=500)
    common = {"learning_rate": 0.05, "batch_size": 32, "weight_decay": 1e-4, "momentum": 0.9}
    mlp = {**common, "n_layers": 1, "n_units": 32, "dropout": 0.1}
    values, seconds = train_curve(make_mlp, mlp, data, n_seeds=2, n_epochs=5, seed=0)
    assert values.shape == (2, 5)
    assert (values[:, -1] > 0.8).all()
    assert (values[0] != values[1]).any()
    assert seconds > 0
    again, _ = train_curve(make_mlp, mlp, data, n_seeds=2, n_epochs=5, seed=0)
    np.testing.assert_array_equal(values, again)
    cnn = {**common, "n_convolutions": 2, "n_channels": 4, "dropout": 0.0, "optimizer": "adamw"}
    cnn["learning_rate"] = 0.01
    values, _ = train_curve(make_cnn, cnn, data, n_seeds=1, n_epochs=4, seed=0)
    assert values[0, -1] > 0.3  # chance is 0.1
    wild = {**mlp, "learning_rate": 1e30}
    values, _ = train_curve(make_mlp, wild, data, n_seeds=2, n_epochs=3, seed=0)
    assert np.isnan(values[:, -1]).all()


@pytest.mark.usefixtures("_one_thread")
def test_recipes_make_tables_of_their_space(monkeypatch):
    from make_tables import RECIPES, describe, make_trained
    from synthetic_curves import FAMILIES, make_synthetic

    short = replace(RECIPES["breast_cancer"], n_epochs=9)
    monkeypatch.setitem(RECIPES, "breast_cancer", short)
    small = make_trained("breast_cancer", Path(), n_configurations=2)
    assert small.values.shape == (2, short.n_seeds, 9)
    assert describe(small)["best"] > 0.5
    for name in FAMILIES:
        family = make_synthetic(name)
        assert family.values.shape == (1000, 2, 52)
        assert 0 <= family.values.min() < family.values.max() <= 1


def test_reported_tables_are_as_large_as_they_claim():
    paths = sorted((BENCHMARKS / "tables").glob("*.npz"))
    assert len(paths) >= 3
    assert sum(path.stat().st_size for path in paths) < 10e6
    for path in paths:
        n_configurations, n_seeds, n_epochs = load_table(path).values.shape
        assert (n_configurations >= 400, n_seeds >= 2, n_epochs >= 27) == (True, True, True)
