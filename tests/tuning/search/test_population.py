"""Population-based training: who takes over whose weights, and with which settings."""

from __future__ import annotations

import random

import pytest
from examples import N_SPACES
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.domains import Choice, Float, Int, SearchSpace
from trainables.tasks.image_classification import ImageClassificationConfig
from trainables.tasks.text_classification import TextClassificationConfig
from trainables.training.mutable import MUTABLE, mutable_settings
from tuning.before_start.spaces import load_space, space_names
from tuning.record.events import TrialRecord
from tuning.record.schedules import Segment, Takeover
from tuning.search.convert import perturbed, perturbed_point
from tuning.search.population import Population, intervals

# A parent that may change in the middle, with children of each kind, one of them a parent itself.
CONDITIONAL = SearchSpace(
    name="conditional",
    domains={
        "kind": Choice("plain", "scaled", "deep"),
        "scale": Int(1, 3, when={"kind": "scaled"}),
        "depth": Int(2, 64, log=True, when={"kind": ("deep", "scaled")}),
        "share": Float(0.1, 0.3, step=0.1, when={"scale": (1, 2)}),
        "rate": Float(1e-5, 1e-1, log=True),
        "offset": Float(-2.0, 3.0),
        "zero": Float(0.0, 1.0),
        "level": Choice(0.0, 0.1, 0.5, "auto", None),
        "flag": Choice(True, False),
    },
)
SPACES = [*(load_space(name).space for name in space_names()), CONDITIONAL]


def test_all_spaces_are_there():
    assert len(SPACES) == N_SPACES + 1


@settings(max_examples=200, deadline=None)
@given(
    space=st.sampled_from(SPACES),
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_perturbed_points_stay_in_their_domains(space, seed, share):
    """However often: each value in its domain, just the active ones there, the others as before."""
    generator = random.Random(seed)
    mutable = {name for name in space.domains if generator.random() < share}
    point = space.sample(generator)
    for _ in range(12):
        before, point = point, perturbed_point(space, point, mutable, generator)
        active: dict = {}
        for name, domain in space.domains.items():
            if space.is_active(name, active):
                active[name] = point[name]
                assert domain.contains(point[name]), (name, point[name])
                assert name in mutable or name not in before or point[name] == before[name]
        assert list(active) == list(point)


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False)


@st.composite
def domains(draw):
    kind = draw(st.sampled_from(["float", "log", "stepped", "int", "log int", "stepped int"]))
    n_steps = draw(st.integers(0, 40))
    if kind == "float":
        low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
        return Float(low, high)
    if kind == "log":
        low = draw(st.floats(1e-9, 1e3))
        return Float(low, low * draw(st.floats(1.0, 1e6)), log=True)
    if kind == "stepped":
        low, step = draw(st.integers(-50, 50)) / 10, draw(st.integers(1, 30)) / 10
        return Float(low, low + step * n_steps, step=step)
    if kind == "log int":
        low = draw(st.integers(1, 100))
        return Int(low, low + draw(st.integers(0, 1000)), log=True)
    low, step = draw(st.integers(-100, 100)), draw(st.integers(1, 7))
    step = step if kind == "stepped int" else 1
    return Int(low, low + step * n_steps, step=step if step > 1 else None)


@settings(max_examples=300, deadline=None)
@given(domain=domains(), seed=st.integers(0, 2**32))
def test_perturbed_values_of_any_domain_stay_in_it(domain, seed):
    generator = random.Random(seed)
    value = domain.sample(generator)
    assert domain.contains(value)
    for _ in range(8):
        value = perturbed(domain, value, generator)
        assert domain.contains(value)
        assert isinstance(value, float if isinstance(domain, Float) else int)


def ratios(domain, value) -> set:
    generator = random.Random(0)
    return {perturbed(domain, value, generator) for _ in range(400)}


def test_numbers_are_multiplied_or_drawn_anew():
    found = [perturbed(Float(1e-5, 1.0, log=True), 0.01, random.Random(s)) for s in range(1000)]
    multiplied = [value for value in found if value in (0.01 * 0.8, 0.01 * 1.2)]
    assert 0.70 < len(multiplied) / 1000 < 0.80  # a quarter is drawn anew
    assert ratios(Int(1, 3), 2) == {1, 2, 3}  # at least a step, or drawn anew
    assert {1.0, 0.8} <= ratios(Float(0.5, 1.0), 1.0)  # clipped, or down
    assert len(ratios(Float(0.0, 1.0), 0.0)) > 300  # no factor changes 0
    assert ratios(Choice(16, 64, 32), 32) == {16, 32, 64}
    assert ratios(Choice("a", "b"), "a") == {"a", "b"}


def test_what_may_change_is_a_setting_with_a_reason():
    fields = {**ImageClassificationConfig.model_fields, **TextClassificationConfig.model_fields}
    assert set(MUTABLE) <= set(fields)
    assert all(len(reason) > 20 for reason in MUTABLE.values())
    assert "augmentation_strength" in mutable_settings(ImageClassificationConfig)
    assert "augmentation_strength" not in mutable_settings(TextClassificationConfig)
    never = {"epochs", "batch_size", "freezing", "frozen_blocks", "model", "data", "schedule"}
    assert not never & set(MUTABLE)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, []), (2, [1]), (6, [1, 2, 3, 4, 5]), (10, [2, 4, 6, 8]), (27, list(range(4, 27, 4)))],
)
def test_members_are_compared_at_most_eight_times(epochs, expected):
    assert intervals(epochs) == expected


def population(n_members: int = 8, epochs: int = 16, **options) -> Population:
    values = {"direction": "max", "epochs": epochs, "n_members": n_members, "seed": 0}
    return Population(**{**values, **options})


def arrive(found: Population, epoch: int, values: dict[int, float]) -> None:
    for number, value in values.items():
        assert found.observe(number, epoch, value)


def always(number: int, epoch: int) -> bool:
    return True


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_worst_quarter_takes_over_from_the_best(direction):
    found = population(direction=direction)
    for number in range(8):
        found.start(number)
    sign = 1 if direction == "max" else -1
    arrive(found, 2, {number: sign * number / 10 for number in range(8)})
    takes = {}
    while (number := found.thaw(is_last_call=True)) is not None:
        takes[number] = found.exploit(number, always)
    assert sorted(takes) == list(range(8))
    assert {number for number, exploit in takes.items() if exploit} == {0, 1}
    for number in (0, 1):
        exploit = takes[number]
        assert exploit.donor in (6, 7)
        assert exploit.epoch == 2
        assert exploit.value == sign * number / 10
        assert exploit.donor_value == sign * exploit.donor / 10
    assert found.exploit(0, always) is None  # once


def test_a_donor_must_be_sound_better_and_have_a_checkpoint():
    def takes(values, can_give=always, unsound=()):
        found = population(n_members=len(values))
        for number in range(len(values)):
            found.start(number)
        arrive(found, 2, dict(enumerate(values)))
        for number in unsound:
            found.ended(number, "infeasible")
        number = found.thaw(is_last_call=True)
        return found.exploit(number, can_give)

    assert takes([0.0, 0.5, 0.5, 1.0]).donor == 3
    assert takes([0.5] * 4) is None  # ties: the last ones are the worst, and no worse
    assert takes([0.0, 0.5, 0.5, 1.0], unsound=[3]) is None
    assert takes([0.0, 0.5, 0.5, 1.0], can_give=lambda number, epoch: number != 3) is None
    assert takes([0.0, 1.0, 0.5]) is None  # too few


def test_nobody_goes_on_before_half_of_the_others_are_there():
    found = population()
    for number in range(8):
        found.start(number)
    for number in range(3):
        found.observe(number, 2, 0.1)
        assert not found.can_thaw(is_last_call=True)
    found.observe(3, 2, 0.1)
    assert found.thaw(is_last_call=True) == 0
    # A member that ended is not waited for.
    assert found.thaw(is_last_call=True) == 1
    found.observe(0, 4, 0.1)
    for number in (4, 5, 6, 7):
        found.ended(number)
    assert [found.thaw(is_last_call=True) for _ in range(2)] == [2, 3]
    found.observe(1, 4, 0.1)
    assert found.thaw(is_last_call=True) == 0  # of four, two are there and two to come


def test_new_members_come_first():
    found = population(n_members=3)
    found.start(0)
    found.observe(0, 2, 0.1)
    assert found.thaw(is_last_call=False) is None


def test_checkpoints_are_spent_when_all_have_arrived_after_them():
    found = population(n_members=4)
    for number in range(4):
        found.start(number)
    arrive(found, 2, dict.fromkeys(range(4), 0.1))
    assert found.spent() == []  # those who go on from them may have to begin again
    for number in range(4):
        assert found.thaw(is_last_call=True) == number
    arrive(found, 4, dict.fromkeys(range(3), 0.2))
    assert found.spent() == []
    found.ended(3)
    assert found.spent() == [(number, 2) for number in range(4)]
    assert found.spent() == []
    for number in range(3):
        found.ended(number)
    assert found.spent() == [(number, 4) for number in range(3)]


@settings(max_examples=80, deadline=None)
@given(
    epochs=st.integers(2, 20),
    n_members=st.integers(4, 20),
    n_workers=st.integers(1, 20),
    seed=st.integers(0, 10**6),
)
def test_it_always_comes_to_an_end(epochs, n_members, n_workers, seed):
    """Any number at once, in any order, some failing: nobody waits for ever or trains twice."""
    generator = random.Random(seed)
    found = population(n_members, epochs)
    done: dict[int, int] = {}
    running: list[int] = []
    spent: set = set()
    over: dict[int, bool] = {}
    while True:
        while len(running) < n_workers:
            number = found.thaw(is_last_call=len(done) == n_members)
            if number is None and len(done) < n_members:
                number = len(done)
                done[number] = 0
                found.start(number)
            elif number is None:
                break
            else:
                exploit = found.exploit(number, lambda n, e: (n, e) not in spent)
                assert exploit is None or exploit.epoch == done[number]
                assert exploit is None or (exploit.donor, exploit.epoch) not in spent
            running.append(number)
        if not running:
            break
        number = generator.choice(running)
        done[number] += 1
        if generator.random() < 0.02 or done[number] == epochs:
            running.remove(number)
            over[number] = done[number] == epochs
            found.ended(number, "completed" if over[number] else "failed")
        elif found.observe(number, done[number], generator.random()):
            running.remove(number)
        for key in found.spent():
            assert key not in spent
            spent.add(key)
    assert len(over) == n_members
    assert all(done[number] == epochs for number, completed in over.items() if completed)
    assert len(spent) <= len(intervals(epochs)) * n_members


def record(number: int, state: str, n_epochs: int, value: float = 0.5, **options) -> TrialRecord:
    curve = {epoch: {"m": value} for epoch in range(1, n_epochs + 1)}
    return TrialRecord(number, {}, {"x": value}, state, curve, **options)


def test_a_restored_population_knows_who_waits_and_what_was_decided():
    found = population(n_members=5)
    taken = Takeover(2, 3, [Segment(1, {"x": 0.9}), Segment(3, {"x": 0.8})])
    for each in (
        record(0, "frozen", 2, 0.0, takeovers=[taken]),
        record(1, "frozen", 2, 0.1),
        record(2, "running", 3, 0.5),
        record(3, "frozen", 4, 0.9),
        record(4, "infeasible", 2, 0.95),
    ):
        found.restore(each, "m", "max")
    assert found.thaw(is_last_call=True) == 0
    assert found.exploit(0, always) is None  # it was decided before, and noted
    assert found.thaw(is_last_call=True) == 1
    assert found.exploit(1, always) is None  # of five the worst is 0
    assert found.spent() == []


SCHEDULE = [Segment(1, {"x": 1}), Segment(3, {"x": 2})]


def test_a_trial_knows_what_its_weights_were_trained_with_at_each_epoch():
    trial = record(0, "completed", 6)
    assert trial.schedule() == [Segment(1, {"x": 0.5})]
    trial.takeovers.append(Takeover(2, 7, SCHEDULE))
    later = [*SCHEDULE, Segment(5, {"x": 3})]
    trial.takeovers.append(Takeover(4, 5, later))
    assert trial.schedule_until(2) == [Segment(1, {"x": 0.5})]
    assert trial.schedule_until(3) == trial.schedule_until(4) == SCHEDULE
    assert trial.schedule_until(5) == trial.schedule() == later
    assert trial.settings == {"x": 3}


@pytest.mark.parametrize(
    ("state", "told"),
    [("completed", "pruned"), ("infeasible", "pruned"), ("failed", "failed"), ("frozen", "frozen")],
)
def test_a_sampler_hears_of_what_a_point_explains(state, told):
    trial = record(0, state, 6, takeovers=[Takeover(2, 7, SCHEDULE)])
    part = trial.of_its_point()
    assert (part.state, sorted(part.curve), part.point) == (told, [1, 2], {"x": 0.5})
    assert len(trial.curve) == 6
    alone = record(1, state, 6)
    assert alone.of_its_point() is alone
