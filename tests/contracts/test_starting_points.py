"""The task's defaults are the first trial, in every built-in space and whatever is fixed in it."""

from __future__ import annotations

import pytest
from examples import N_SPACES

from search_spaces.domains import Choice, Float, Int, SearchSpace
from trainables.config import check_config
from trainables.tasks.table import TASKS, task_row
from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.spaces import load_space, space_names
from tuning.search.plan import SearchPlan
from tuning.search.starting_points import default_point, with_defaults_first
from tuning.search.study import Study

SEARCHERS = ("tpe", "random", "nsga2")


def first_proposal(space: SearchSpace, searcher: str) -> dict:
    return Study(SearchPlan(space, searcher, "none", epochs=3, seed=5)).ask(0)


def overrides(space: SearchSpace) -> list[dict]:
    """Nothing fixed, and each setting fixed to each of its ends or options."""
    return [{}] + [
        {name: value}
        for name, domain in space.domains.items()
        if len(space.domains) > 1
        for value in domain.grid(2)
    ]


@pytest.mark.parametrize("name", space_names())
def test_every_space_begins_with_a_whole_point_also_when_settings_are_fixed(name):
    assert len(space_names()) == N_SPACES
    found = load_space(name).space
    assert found.starting_points, "a built-in space says where to begin"
    config_type = task_row(found.task).config_type
    n_checked = 0
    for settings in overrides(found):
        space = with_defaults_first(found.override(settings), config_type)
        first = space.starting_points[0]
        assert list(first) == [each for each in space.domains if space.is_active(each, first)]
        for each, value in found.starting_points[0].items():
            assert each in settings or each not in first or first[each] == value
        check_config({"data": "somewhere", **space.configuration(first)}, config_type)
        for searcher in SEARCHERS:
            assert first_proposal(space, searcher) == first
        n_checked += 1
    assert n_checked >= 2 * len(found.domains)


@pytest.mark.parametrize("name", space_names())
def test_without_starting_points_the_defaults_of_the_field_come_first(name):
    found = load_space(name).space
    config_type = task_row(found.task).config_type
    bare = SearchSpace(name="bare", task=found.task, domains=found.domains, fixed=found.fixed)
    first = with_defaults_first(bare, config_type).starting_points[0]
    fields = config_type.model_fields
    names = {"learning_rate": 1e-3, "batch_size": 32, "freezing": "none", "weight_decay": 0.01}
    searched = [each for each in names if each in found.domains]
    assert len(searched) >= 3
    assert [first[each] for each in searched] == [names[each] for each in searched]
    assert all(fields[each].default == value for each, value in names.items())
    assert "frozen_blocks" not in first


def test_a_default_outside_of_its_domain_is_replaced_by_the_nearest():
    config_type = TASKS["image_classification"].config_type
    space = SearchSpace(
        name="elsewhere",
        task="image_classification",
        domains={
            "learning_rate": Float(1e-5, 1e-4, log=True),
            "epochs": Int(20, 30),
            "batch_size": Choice(8, 24, 512),
            "augmentation": Choice("photo", "digits"),
            "frozen_blocks": Int(2, 3),
        },
    )
    assert default_point(space, config_type) == {
        "learning_rate": 1e-4,
        "epochs": 20,
        "batch_size": 24,
        "augmentation": "photo",
        "frozen_blocks": 2,
    }


def test_a_sweep_has_it_and_keeps_the_other_points(workplace):
    sweep = resolve(SweepOptions(space="mnist", settings=["data=digits", "weight_decay=0.05"]))
    assert sweep.space.starting_points[0] == {
        "learning_rate": 1e-3,
        "batch_size": 32,
        "freezing": "none",
        "layer_decay": 1.0,
        "label_smoothing": 0.0,
    }
    assert "weight_decay" not in sweep.space.domains
