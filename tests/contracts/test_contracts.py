"""What every task and every built-in space must hold."""

from __future__ import annotations

import json
import pickle
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from block_checks import check_blocks
from examples import (
    EXAMPLES,
    N_SPACES,
    N_STRATEGIES,
    N_TASKS,
    STRATEGY_SETTINGS,
    Example,
)
from toy import TIMES

from search_spaces.domains import SearchSpace
from trainables.adapting.freezing import parts, set_training_mode, thaw, trainable
from trainables.config import check_config
from trainables.prepared import gather
from trainables.setting_types import readable_types
from trainables.strategies import STRATEGIES
from trainables.task import TrainingRun
from trainables.tasks.predictor import Predictor
from trainables.tasks.table import TASKS
from trainables.training.loop import fit
from trainables.training.models import new_model
from trainables.training.optim import make_optimizer
from tuning.before_start.spaces import load_space, space_names


@pytest.fixture(scope="module", params=sorted(TASKS))
def case(request, tmp_path_factory) -> tuple[str, Example, TrainingRun]:
    folder = tmp_path_factory.mktemp(request.param)
    example = EXAMPLES[request.param](folder / "data")
    return request.param, example, TrainingRun(cache_folder=folder / "cache")


def config_of(name: str, example: Example, **changes: Any) -> Any:
    values = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, **example.settings, **changes}
    return check_config(values, TASKS[name].config_type)


def curve(name: str, config: Any, run: TrainingRun) -> list[dict[str, float]]:
    return [
        {key: value for key, value in report.metrics.items() if key not in TIMES}
        for report in fit(TASKS[name].load(), config, run)
    ]


def test_all_tasks_strategies_and_spaces_are_covered():
    assert len(TASKS) == N_TASKS
    assert len(STRATEGIES) == N_STRATEGIES
    assert set(EXAMPLES) == set(TASKS)
    assert len(space_names()) == N_SPACES


def test_the_same_seed_gives_the_same_numbers(case):
    name, example, run = case
    config = config_of(name, example)
    first = curve(name, config, run)
    assert first == curve(name, config, run)
    assert first != curve(name, config.model_copy(update={"seed": 5}), run)
    assert all(np.isfinite(list(metrics.values())).all() for metrics in first)


@pytest.mark.parametrize("freezing", STRATEGIES)
def test_a_checkpoint_goes_on_and_predicts_as_if_it_had_never_been_written(
    case, tmp_path, freezing
):
    name, example, run = case
    config = config_of(name, example, freezing=freezing, **STRATEGY_SETTINGS.get(freezing, {}))
    whole = []
    for report in fit(TASKS[name].load(), config, run):
        whole.append({key: value for key, value in report.metrics.items() if key not in TIMES})
        report.save(tmp_path / str(report.epoch))
    assert curve(name, config, replace(run, resume_from=tmp_path / "1")) == whole[1:]
    measured = Predictor(tmp_path / "2").evaluate("val", run).metrics["loss"]
    assert measured == pytest.approx(whole[1]["val_loss"], rel=1e-6)


def test_the_loss_falls_on_one_batch(case):
    name, example, run = case
    config = config_of(name, example, epochs=12, batch_size=64, schedule="constant")
    losses = [metrics["train_loss"] for metrics in curve(name, config, run)]
    assert losses[-1] < 0.7 * losses[0]


def test_it_pickles(case):
    name, example, _ = case
    config = config_of(name, example)
    assert pickle.loads(pickle.dumps(config)) == config
    assert pickle.loads(pickle.dumps(TASKS[name].load())).name == name


def test_blocks_hold_every_parameter_once(case):
    name, example, run = case
    task, config = TASKS[name].load(), config_of(name, example)
    data = task.prepare(config, run.cache_folder)
    model = task.build(config, data.info, data.assets, True)
    blocks = task.blocks(model)
    check_blocks(model, blocks)
    assert len(blocks) > 3
    assert blocks[-1].name == "head"


@pytest.mark.parametrize("freezing", STRATEGIES)
def test_what_a_strategy_names_trains_and_all_else_stays_as_it_is(case, freezing):
    name, example, run = case
    task = TASKS[name].load()
    config = config_of(name, example, freezing=freezing, **STRATEGY_SETTINGS.get(freezing, {}))
    data = task.prepare(config, run.cache_folder)
    built = new_model(task, config, data.info, data.assets)
    model, blocks = built.module, built.blocks
    check_blocks(model, blocks)
    names = trainable(config, parts(model, blocks), 0)
    thaw(model, names)
    set_training_mode(model, blocks, names)
    frozen_blocks = [b for b in blocks if not any(map(b.holds, names))]
    for block in frozen_blocks:
        assert not any(m.training for top in block.modules(model) for m in top.modules())
    buffers = dict(model.named_buffers())
    before = {key: each.clone() for key, each in [*model.named_parameters(), *buffers.items()]}
    split = data.splits["train"]
    raw = gather(split.arrays, np.arange(8), torch.device("cpu"))
    optimizer = make_optimizer(model, blocks, config)
    batch = task.transform(raw, config, data.info, torch.Generator().manual_seed(0))
    for _ in range(2):  # the second of two adapters has nothing to pass on before the first step
        optimizer.zero_grad()
        task.loss(task.forward(model, batch), batch, config).backward()
        optimizer.step()
    after = [*model.named_parameters(), *model.named_buffers()]
    changed = {key for key, each in after if not each.equal(before[key])}
    assert changed - buffers.keys() == names
    # Running statistics move with the parameters beside them, and only then.
    owners = {key.rpartition(".")[0] for key in names}
    assert {key.rpartition(".")[0] for key in changed & buffers.keys()} <= owners
    assert freezing == "none" or len(names) < len(dict(model.named_parameters()))


def assert_alike(one: Any, other: Any) -> None:
    """The same, but for rounding of numbers, however deep they are."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        pairs = [(one[key], other[key]) for key in one]
    elif isinstance(one, list):
        pairs = list(zip(one, other, strict=True))
    else:
        assert one == (pytest.approx(other, rel=1e-5) if isinstance(one, float) else other)
        pairs = []
    for pair in pairs:
        assert_alike(*pair)


def test_a_checkpoint_predicts_what_the_training_measured(case, tmp_path):
    name, example, run = case
    config = config_of(name, example)
    for report in fit(TASKS[name].load(), config, run):
        if report.epoch == config.epochs:
            report.save(tmp_path / "checkpoint")
    predictor = Predictor(tmp_path / "checkpoint")
    evaluation = predictor.evaluate("val", run)
    for metric, value in evaluation.metrics.items():
        assert value == pytest.approx(report.metrics[f"val_{metric}"], rel=1e-6)
    rows = predictor.predict(example.items)
    assert len(rows) == len(example.items)
    assert all(row.keys() == predictor.column.answer.keys() for row in rows)
    assert json.loads(json.dumps(rows)) == rows
    # one at a time or together, an item gets the same answer
    for item, row in zip(example.items, rows, strict=True):
        (alone,) = predictor.predict([item])
        assert_alike(alone, row)
    assert predictor.predict([predictor.column.example()])
    for name, content in predictor.artifacts(evaluation).items():
        assert content, name


@pytest.mark.parametrize("name", space_names())
def test_every_space_is_valid_for_its_task(name):
    space = load_space(name).space
    assert isinstance(space, SearchSpace)
    assert space.name == name
    assert space.description
    assert space.starting_points
    row = TASKS[space.task]
    generator = random.Random(0)
    points = [*space.corners(), *(space.sample(generator) for _ in range(50))]
    points += [space.complete(point, generator) for point in space.starting_points]
    for point in points:
        values = space.configuration(point)
        values.setdefault("data", "given by the user")
        check_config(values, row.config_type)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_setting_is_explained_in_a_users_words(name):
    fields = TASKS[name].config_type.model_fields
    types = readable_types(TASKS[name].config_type)
    assert set(types) == set(fields)
    assert len(fields) > 20
    for setting, field in fields.items():
        assert field.description, f"{name}: {setting} has no description"
        assert not field.description.endswith("."), setting  # it is a phrase
        assert re.match("text|number|whole number|one of|true or false|list of", types[setting])
        assert not re.search(r"[\[\](){}'\"|]|None", types[setting]), types[setting]


def test_types_are_told_in_words():
    types = readable_types(TASKS["image_classification"].config_type)
    wanted = {
        "dropout": "number from 0 to below 1, or none",
        "optimizer": "one of adamw, sgd",
        "epochs": "whole number, at least 1",
        "learning_rate": "number, above 0",
        "layer_decay": "number, above 0, at most 1",
        "image_size": "whole number from 4 to 1024",
        "data": "text",
    }
    assert {name: types[name] for name in wanted} == wanted
