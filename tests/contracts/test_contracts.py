"""What every task and every built-in space must hold."""

from __future__ import annotations

import json
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from examples import EXAMPLES, N_SPACES, N_TASKS, TIMES, Example

from search_spaces.domains import SearchSpace
from trainables.adapting.freezing import STRATEGIES, set_training_mode, thaw, trainable_blocks
from trainables.blocks import check_blocks
from trainables.config import check_config
from trainables.prepared import gather
from trainables.task import TrainingRun
from trainables.tasks.predictor import Predictor
from trainables.tasks.table import TASKS
from trainables.training.loop import fit
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


def test_all_tasks_and_spaces_are_covered():
    assert len(TASKS) == N_TASKS
    assert set(EXAMPLES) == set(TASKS)
    assert len(space_names()) == N_SPACES


def test_the_same_seed_gives_the_same_numbers(case):
    name, example, run = case
    config = config_of(name, example)
    first = curve(name, config, run)
    assert first == curve(name, config, run)
    assert first != curve(name, config.model_copy(update={"seed": 5}), run)
    assert all(np.isfinite(list(metrics.values())).all() for metrics in first)


def test_a_continued_training_equals_the_uninterrupted_one(case, tmp_path):
    name, example, run = case
    config = config_of(name, example, freezing="gradual", thaw_every_epochs=1)
    whole = curve(name, config, run)
    next(fit(TASKS[name].load(), config, run)).save(tmp_path / "checkpoint")
    again = TrainingRun(run.cache_folder, resume_from=tmp_path / "checkpoint")
    assert curve(name, config, again) == whole[1:]


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


def test_blocks_hold_every_parameter_once_and_freeze_whole(case):
    name, example, run = case
    task, config = TASKS[name].load(), config_of(name, example)
    data = task.prepare(config, run.cache_folder)
    model = task.build(config, data.info, data.assets, True)
    blocks = task.blocks(model)
    check_blocks(model, blocks)
    assert blocks[-1].name == "head"
    for k in range(len(blocks)):
        trainable = range(k, len(blocks))
        thaw(model, blocks, trainable)
        set_training_mode(model, blocks, trainable)
        for index, block in enumerate(blocks):
            assert all(p.requires_grad == (index >= k) for _, p in block.parameters(model))
            if index < k:
                assert not any(m.training for top in block.modules(model) for m in top.modules())


def frozen_state(model, blocks, trainable) -> dict[str, torch.Tensor]:
    """Parameters and buffers, such as running statistics, below the frozen blocks."""
    paths = [p for i, block in enumerate(blocks) if i not in trainable for p in block.paths]
    return {
        key: value
        for key, value in model.state_dict().items()
        if any(key == path or key.startswith(f"{path}.") for path in paths)
    }


@pytest.mark.parametrize("freezing", sorted({*STRATEGIES} - {"none"}))
def test_frozen_blocks_give_the_same_output_all_epoch(case, freezing):
    name, example, run = case
    task = TASKS[name].load()
    extra = {"first_k": {"frozen_blocks": 2}, "gradual": {"thaw_every_epochs": 1}}
    config = config_of(name, example, freezing=freezing, **extra.get(freezing, {}))
    data = task.prepare(config, run.cache_folder)
    torch.manual_seed(0)
    model = task.build(config, data.info, data.assets, True)
    blocks = task.blocks(model)
    trainable = trainable_blocks(config, len(blocks), 0)
    thaw(model, blocks, trainable)
    frozen = {key: value.clone() for key, value in frozen_state(model, blocks, trainable).items()}
    set_training_mode(model, blocks, trainable)
    split = data.splits["train"]
    raw = gather(split.arrays, np.arange(8), torch.device("cpu"))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch = task.transform(raw, config, data.info, torch.Generator().manual_seed(0))
    task.loss(task.forward(model, batch), batch, config).backward()
    optimizer.step()
    after = frozen_state(model, blocks, trainable)
    assert len(after) == len(frozen) > 0
    assert all(after[key].equal(value) for key, value in frozen.items())


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
def test_every_setting_is_explained(name):
    fields = TASKS[name].config_type.model_fields
    assert len(fields) > 20
    for setting, field in fields.items():
        assert field.description, f"{name}: {setting} has no description"
        assert not field.description.endswith("."), setting  # it is a phrase
