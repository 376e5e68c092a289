"""The table of strategies: what holds for each of them, in any model."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from examples import N_STRATEGIES
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import TrainingConfig
from trainables.strategies import STRATEGIES, Part

KINDS = ("weight", "bias", "norm", "adapter")
settings_of_all = {
    "frozen_blocks": st.integers(1, 9),
    "thaw_every_epochs": st.none() | st.integers(1, 4),
    "head_epochs": st.none() | st.integers(1, 9),
    "trained_block": st.integers(0, 9),
    "lora_rank": st.none() | st.integers(1, 9),
    "lora_scale": st.none() | st.floats(0.1, 9),
    "lora_from_block": st.none() | st.integers(1, 9),
}


def test_every_setting_belongs_to_one_strategy_and_is_a_field():
    names = [setting.name for row in STRATEGIES.values() for setting in row.settings]
    assert len(names) == len(set(names)) == len(settings_of_all)
    assert set(names) == set(settings_of_all) <= set(TrainingConfig.model_fields)
    assert len(STRATEGIES) == N_STRATEGIES
    for name, row in STRATEGIES.items():
        assert f"{name} {row.summary}" in str(TrainingConfig.model_fields["freezing"].description)


@pytest.mark.parametrize("name", STRATEGIES)
@given(data=st.data())
def test_a_strategy_trains_the_head_and_only_ever_thaws(name, data):
    values = data.draw(st.fixed_dictionaries(settings_of_all))
    config: Any = SimpleNamespace(freezing=name, **values)
    n_blocks = data.draw(st.integers(10, 12))
    trains = STRATEGIES[name].trains
    all_parts = [Part("", block, n_blocks, kind) for block in range(n_blocks) for kind in KINDS]
    by_epoch = [{part for part in all_parts if trains(config, part, e)} for e in range(12)]
    for earlier, later in pairwise(by_epoch):
        assert earlier <= later
    assert all(part in by_epoch[0] for part in all_parts if part.in_head)


@pytest.mark.parametrize("name", ["none", "head", "first_k", "gradual", "lp_ft"])
@given(data=st.data())
def test_a_range_of_blocks_trains_whole_and_reaches_up_to_the_head(name, data):
    config: Any = SimpleNamespace(**data.draw(st.fixed_dictionaries(settings_of_all)))
    n_blocks, epoch = data.draw(st.integers(10, 12)), data.draw(st.integers(0, 9))
    trains = STRATEGIES[name].trains
    found = [
        {trains(config, Part("", block, n_blocks, kind), epoch) for kind in KINDS}
        for block in range(n_blocks)
    ]
    assert all(len(answers) == 1 for answers in found)
    assert found == sorted(found, key=lambda answers: True in answers)
