"""Regression: metrics as scikit-learn and scipy compute them, in the numbers' own unit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from trainables.data.records import Record
from trainables.errors import InputError
from trainables.prepared import DataInfo
from trainables.targets.numbers import (
    NumberMeter,
    NumbersConfig,
    artifacts,
    decode,
    loss,
    number_answers,
)
from trainables.task import Evaluation, Trained

MEAN, STD = 100.0, 25.0
INFO = DataInfo(details={"number_mean": MEAN, "number_std": STD})
# Few different values, so that ranks are shared; multiples of a quarter of STD are exact.
NUMBER = st.integers(-8, 8).map(lambda quarters: MEAN + quarters * STD / 4)
PAIRS = st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=30)


def meter_of(pairs: list[tuple[float, float]], info: DataInfo = INFO) -> NumberMeter:
    """Has heard of pairs of a predicted and a true number, in their own unit."""
    mean, std = info.details["number_mean"], info.details["number_std"]
    meter = NumberMeter(info)
    for part in (pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]):
        columns = (torch.tensor(part, dtype=torch.float64).reshape(-1, 2) - mean) / std
        predicted, true = columns.float().T
        meter.update(predicted[:, None], {"label": true})
    return meter


@settings(deadline=None)
@given(PAIRS, st.integers(0, 30))
def test_metrics_are_those_of_scikit_learn_and_scipy(pairs, divide):
    predicted, true = np.array(pairs).T
    found = meter_of(pairs).compute(0.5)
    assert found["mae"] == pytest.approx(mean_absolute_error(true, predicted))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(true, predicted))
    workers = NumberMeter(INFO)
    workers.merge([meter_of(pairs[:divide]).state(), meter_of(pairs[divide:]).state()])
    assert workers.compute(0.5) == found
    assume(np.ptp(true) > 0)
    assert found["r2"] == pytest.approx(r2_score(true, predicted))
    assume(np.ptp(predicted) > 0)
    assert found["spearman"] == pytest.approx(spearmanr(predicted, true).statistic, abs=1e-12)


def test_what_is_not_defined_is_0():
    found = meter_of([(100.0, 125.0), (150.0, 125.0)]).compute(0.0)
    assert (found["r2"], found["spearman"], found["mae"]) == (0.0, 0.0, 25.0)


def rows(numbers: list[float]) -> list[Record]:
    return [Record(i, {"number_column": number}) for i, number in enumerate(numbers)]


def answers(train: list[float], other: list[float] | None = None) -> Any:
    splits = {"train": rows(train), "val": rows(other or train[:2]), "test": rows([])}
    return number_answers(splits, NumbersConfig(data="", model=""))


@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=20), st.floats(0.001, 1000))
def test_numbers_are_standardised_from_training_alone_and_told_in_their_unit(whole, unit):
    train = [number * unit for number in whole]
    assume(max(whole) > min(whole))
    found = answers(train, [5e6 * unit])
    label = found.labels["train"]["label"]
    assert label.dtype == np.float32
    assert label.mean() == pytest.approx(0, abs=1e-5)
    assert label.std() == pytest.approx(1, rel=1e-4)
    assert found.labels["test"]["label"].shape == (0,)
    trained = Trained(torch.nn.Identity(), None, DataInfo(details=found.details), None)
    told = decode(torch.from_numpy(label)[:, None], {}, train, trained)
    spread = float(np.std(train))
    assert [row["number"] for row in told] == pytest.approx(train, rel=1e-6, abs=1e-5 * spread)


def test_large_numbers_keep_their_digits():
    days = [1.7e9 + 86400 * day for day in range(20)]  # seconds since 1970
    found = answers(days)
    trained = Trained(torch.nn.Identity(), None, DataInfo(details=found.details), None)
    label = torch.from_numpy(found.labels["train"]["label"])
    told = [row["number"] for row in decode(label[:, None], {}, days, trained)]
    assert told == pytest.approx(days, abs=1)
    meter = NumberMeter(DataInfo(details=found.details))
    meter.update(label[:, None], {"label": label})
    assert meter.compute(0.0)["mae"] == 0


def test_the_loss_is_summed_over_samples():
    outputs, label = torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0])
    assert loss(outputs, {"label": label}, NumbersConfig(data="", model="")) == 5.0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([7.0] * 5, "number_column = 'number': all 5 numbers of the training split are 7"),
        ([0.1] * 5, "there is nothing to predict"),
        ([1e308, -1e308], "from -1e\\+308 to 1e\\+308, are too close or too far apart"),
        ([1e-320, 2e-320], "in another unit"),
    ],
)
def test_numbers_that_do_not_vary_are_refused(numbers, message):
    with pytest.raises(InputError, match=message):
        answers(numbers)


def test_the_picture_shows_each_pair():
    evaluation = Evaluation({}, meter_of([(100.0, 110.0), (120.0, 115.0)]))
    (figure,) = artifacts(evaluation, Trained(torch.nn.Identity(), None, INFO, None)).values()
    (points,) = figure.axes[0].collections
    assert sorted(points.get_offsets().tolist()) == [
        pytest.approx([110, 100]),
        pytest.approx([115, 120]),
    ]
