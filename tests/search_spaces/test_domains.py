"""Domains and search spaces: what they accept, what they sample, and what they refuse."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.domains import Choice, Float, Int, SearchSpace, SpaceError


def floats() -> st.SearchStrategy[Float]:
    bounds = st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)).map(sorted)
    plain = st.builds(lambda b, log: Float(b[0], b[1], log=log), bounds, st.booleans())
    stepped = st.builds(
        lambda low, step, n: Float(low, low + step * n, step=step),
        st.floats(-100, 100),
        st.floats(0.01, 10),
        st.integers(0, 50),
    )
    return plain | stepped


def ints() -> st.SearchStrategy[Int]:
    bounds = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)).map(sorted)
    plain = st.builds(lambda b, log: Int(b[0], b[1], log=log), bounds, st.booleans())
    stepped = st.builds(
        lambda low, step, n: Int(low, low + step * n, step=step),
        st.integers(-100, 100),
        st.integers(1, 10),
        st.integers(0, 50),
    )
    return plain | stepped


def choices() -> st.SearchStrategy[Choice]:
    options = st.lists(st.text(max_size=5) | st.integers() | st.none(), min_size=1, max_size=6)
    return options.map(lambda each: Choice(*dict.fromkeys(each)))


domains = floats() | ints() | choices()


@given(domains, st.integers())
def test_a_sample_lies_in_its_domain(domain, seed):
    assert domain.contains(domain.sample(random.Random(seed)))


@given(domains, st.integers(1, 9))
def test_a_grid_lies_in_its_domain_and_repeats_nothing(domain, n_points):
    grid = domain.grid(n_points)
    assert all(domain.contains(value) for value in grid)
    assert len(set(grid)) == len(grid) >= 1


@given(floats() | ints())
def test_a_grid_reaches_both_bounds(domain):
    grid = domain.grid(2)
    assert math.isclose(grid[0], domain.low)
    assert math.isclose(grid[-1], domain.high)


@given(domains, domains, st.integers())
def test_a_space_survives_json(first, second, seed):
    space = SearchSpace(name="x", task="t", domains={"a": first, "b": second}, fixed={"c": 1})
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again.domains == space.domains
    assert again.sample(random.Random(seed)) == space.sample(random.Random(seed))


def conditional_space() -> SearchSpace:
    return SearchSpace(
        name="conditional",
        domains={
            "freezing": Choice("none", "first_k", "gradual"),
            "frozen_blocks": Int(1, 4, when={"freezing": "first_k"}),
            "decay": Float(0.1, 1.0, when={"freezing": ("none", "gradual")}),
            "deep": Int(5, 6, when={"frozen_blocks": 4}),
        },
        fixed={"epochs": 3},
    )


@given(st.integers())
def test_only_active_domains_are_sampled(seed):
    point = conditional_space().sample(random.Random(seed))
    assert ("frozen_blocks" in point) == (point["freezing"] == "first_k")
    assert ("decay" in point) == (point["freezing"] != "first_k")
    assert ("deep" in point) == (point.get("frozen_blocks") == 4)


def test_corners_reach_every_option_and_bound():
    corners = list(conditional_space().corners())
    assert {corner["freezing"] for corner in corners} == {"none", "first_k", "gradual"}
    assert {corner.get("frozen_blocks") for corner in corners} >= {1, 4}
    assert {corner.get("deep") for corner in corners} >= {5, 6}
    assert {corner.get("decay") for corner in corners} >= {0.1, 1.0}


def test_a_grid_has_each_combination_of_active_values_once():
    grid = [json.dumps(point) for point in conditional_space().grid(2)]
    # none: 2 decays; gradual: 2 decays; first_k: 1, and 4 with 2 values of deep
    assert len(grid) == len(set(grid)) == 2 + 2 + 1 + 2


def test_an_override_fixes_a_domain_and_shortens_starting_points():
    space = SearchSpace(
        name="x",
        domains={"a": Int(1, 3), "b": Int(1, 3, when={"a": 2})},
        starting_points=[{"a": 1}, {"a": 2, "b": 1}, {"a": 3}],
    ).override({"a": 2})
    assert list(space.domains) == ["b"]
    assert space.fixed == {"a": 2}
    assert space.starting_points == [{}, {"b": 1}]
    assert space.sample(random.Random(0)).keys() == {"b"}


def test_an_override_drops_what_can_no_longer_apply():
    space = conditional_space().override({"freezing": "gradual"})
    assert list(space.domains) == ["decay"]
    assert space.domains["decay"].when == {"freezing": "gradual"}
    assert list(conditional_space().override({"frozen_blocks": 2}).domains) == [
        "freezing",
        "frozen_blocks",
        "decay",
    ]


def test_an_override_of_a_conditional_domain_keeps_its_condition():
    space = conditional_space().override({"frozen_blocks": 2})
    for seed in range(20):
        point = space.sample(random.Random(seed))
        assert point.get("frozen_blocks") == (2 if point["freezing"] == "first_k" else None)


WRONG = [
    (lambda: Float(2, 1), "low must not be above high"),
    (lambda: Float(0, 1, log=True), "low must be greater than 0"),
    (lambda: Float(float("nan"), 1), "must be finite"),
    (lambda: Float("1e-4", 1), "must be a number"),
    (lambda: Int(1, 2.5), "must be a whole number"),
    (lambda: Int(True, 3), "must be a whole number"),
    (lambda: Float(0, 1, step=0.3), "high is not reached"),
    (lambda: Float(1, 2, log=True, step=0.5), "can not be combined"),
    (lambda: Int(1, 9, step=0), "must be greater than 0"),
    (lambda: Choice(), "at least one option"),
    (lambda: Choice("a", "a"), "occurs twice"),
    (lambda: Choice([1]), "option [1] is a list"),
    (lambda: Int(1, 2, when="freezing"), "must be a dictionary"),
    (lambda: SearchSpace("x", {}), "nothing to search"),
    (lambda: SearchSpace("", {"a": Int(1, 2)}), "must be letters"),
    (lambda: SearchSpace("x", {"a": 3}), "valid: Float, Int, Choice"),
    (lambda: SearchSpace("x", {"a": Int(1, 2)}, fixed={"a": 1}), "both searched and fixed"),
    (lambda: SearchSpace("x", {"a": Int(1, 2, when={"b": 1}), "b": Int(1, 2)}), "comes later"),
    (lambda: SearchSpace("x", {"a": Int(1, 2, when={"c": 1})}), "is not in the space"),
    (lambda: SearchSpace("x", {"a": Int(1, 2), "b": Int(1, 2, when={"a": 7})}), "can not be met"),
    (lambda: SearchSpace("x", {"a": Int(1, 2)}, starting_points=[{"a": 9}]), "outside its domain"),
    (lambda: SearchSpace("x", {"a": Int(1, 2)}, starting_points=[{"z": 1}]), "is not a domain"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_contradicts_itself_is_refused(make, message):
    with pytest.raises(SpaceError) as caught:
        make()
    assert message in str(caught.value)
