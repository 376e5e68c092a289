"""The training loop: reproducible, resumable, and doing what its configuration says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from toy import TASK, TIMES, ToyConfig, curve

from trainables.errors import DamagedCheckpoint, Diverged, InputError, OutOfMemory
from trainables.prepared import DataInfo
from trainables.targets.classes import ClassificationMeter
from trainables.task import TrainingRun
from trainables.training import evaluation
from trainables.training.checkpoint import MODEL, read_description
from trainables.training.loop import fit
from trainables.training.optim import make_schedule, parameter_groups


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(cache_folder=tmp_path / "cache")


def test_it_learns_and_reports_what_is_promised(run):
    reports = list(fit(TASK, ToyConfig(epochs=15, learning_rate=0.02, batch_size=16), run))
    assert [report.epoch for report in reports] == list(range(1, 16))
    assert reports[-1].metrics["val_accuracy"] > 0.85
    assert reports[-1].metrics["train_loss"] < reports[0].metrics["train_loss"]
    promised = {"train_loss", "val_loss", "val_accuracy", "val_macro_f1", "trainable_parameters"}
    assert promised | set(TIMES) <= set(reports[0].metrics)
    assert all(isinstance(value, float) for value in reports[0].metrics.values())


@pytest.mark.parametrize("freezing", ["none", "head", "gradual", "lp_ft"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_same_seed_gives_the_same_numbers_to_the_last_bit(run, freezing, optimizer):
    config = ToyConfig(epochs=3, freezing=freezing, optimizer=optimizer)
    assert curve(config, run) == curve(config, run)
    assert curve(config, run) != curve(config.model_copy(update={"seed": 1}), run)


def test_what_happens_between_epochs_does_not_matter(run):
    config = ToyConfig(epochs=3)
    disturbed = []
    for report in fit(TASK, config, run):
        torch.manual_seed(123)
        torch.rand(7)
        disturbed.append(report.metrics["val_loss"])
    assert disturbed == [metrics["val_loss"] for metrics in curve(config, run)]


def test_it_leaves_the_process_as_it_was(run):
    before = (torch.get_num_threads(), torch.get_rng_state().tolist(), np.random.get_state()[1][0])
    training = fit(TASK, ToyConfig(epochs=3), run)
    next(training)
    training.close()
    after = (torch.get_num_threads(), torch.get_rng_state().tolist(), np.random.get_state()[1][0])
    assert before == after


@settings(max_examples=12, deadline=None)
@given(
    stop_after=st.integers(1, 4),
    freezing=st.sampled_from(["none", "head", "gradual", "lp_ft"]),
    optimizer=st.sampled_from(["adamw", "sgd"]),
    schedule=st.sampled_from(["cosine", "linear", "constant"]),
    batch_size=st.integers(2, 120),
)
def test_a_continued_training_equals_the_uninterrupted_one(
    tmp_path_factory, stop_after, freezing, optimizer, schedule, batch_size
):
    folder = tmp_path_factory.mktemp("resume")
    run = TrainingRun(cache_folder=folder / "cache")
    config = ToyConfig(
        epochs=5,
        freezing=freezing,
        optimizer=optimizer,
        schedule=schedule,
        batch_size=batch_size,
        warmup_fraction=0.2,
        early_stopping_patience=2,
    )
    whole = curve(config, run)
    interrupted = []
    for report in fit(TASK, config, run):
        interrupted.append(report)
        if report.epoch == min(stop_after, len(whole)):
            report.save(folder / "checkpoint")
            break
    continued = curve(config, TrainingRun(run.cache_folder, resume_from=folder / "checkpoint"))
    assert continued == whole[len(interrupted) :]


def test_the_effective_batch_size_does_not_depend_on_the_micro_batch(run):
    # Without batch norm in training mode a sum over micro-batches is the sum over the batch.
    config = ToyConfig(epochs=2, batch_size=32, freezing="first_k", frozen_blocks=1, dropout=0.0)
    whole = curve(config, run)
    pieces = curve(config.model_copy(update={"micro_batch_size": 5}), run)
    assert pieces[0]["micro_batch_size"] == 5
    for one, other in zip(whole, pieces, strict=True):
        # dropout of the middle block draws other numbers for other shapes
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(run):
    sizes = []

    def forward_with_little_memory(model, inputs):
        if model.training and len(inputs["point"]) > 7:
            raise torch.OutOfMemoryError("pretended")
        if model.training:
            sizes.append(len(inputs["point"]))
        return TASK.forward(model, inputs)

    task = replace(TASK, forward=forward_with_little_memory)
    metrics = curve(ToyConfig(epochs=1, batch_size=25), run, task)
    assert metrics[0]["micro_batch_size"] == 7
    assert max(sizes) <= 7
    assert sum(sizes) == 100  # 101 samples in batches of 25 leave one over, too few for batch norm


def test_out_of_memory_with_one_sample_is_infeasible(run):
    def forward_without_memory(model, inputs):
        raise torch.OutOfMemoryError("pretended")

    with pytest.raises(OutOfMemory, match="micro-batch of 1"):
        curve(ToyConfig(epochs=1), run, replace(TASK, forward=forward_without_memory))


def test_a_diverging_training_is_ended_at_once(run):
    config = ToyConfig(epochs=50, learning_rate=1e30, optimizer="sgd")
    with pytest.raises(Diverged, match=r"learning_rate = 1e\+30"):
        curve(config, run)


def test_early_stopping_waits_for_its_patience(run):
    config = ToyConfig(epochs=60, learning_rate=1e-12, early_stopping_patience=3)
    assert len(curve(config, run)) == 4  # the first epoch is the best, three more are no better


@pytest.mark.parametrize(
    ("freezing", "extra", "trained_blocks"),
    [
        ("none", {}, [{0, 1, 2}] * 4),
        ("head", {}, [{2}] * 4),
        ("first_k", {"frozen_blocks": 1}, [{1, 2}] * 4),
        ("gradual", {"thaw_every_epochs": 1}, [{2}, {1, 2}, {0, 1, 2}, {0, 1, 2}]),
        ("gradual", {"thaw_every_epochs": 2}, [{2}, {2}, {1, 2}, {1, 2}]),
        ("lp_ft", {}, [{2}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2}]),
        ("lp_ft", {"head_epochs": 3}, [{2}, {2}, {2}, {0, 1, 2}]),
        ("lp_ft", {"head_epochs": 9}, [{2}] * 4),
        ("only_k", {"trained_block": 1}, [{1, 2}] * 4),
        ("only_k", {"trained_block": 0}, [{0, 2}] * 4),
    ],
)
def test_only_thawed_blocks_change(tmp_path, run, freezing, extra, trained_blocks):
    config = ToyConfig(epochs=4, freezing=freezing, schedule="constant", **extra)
    before = None
    changed = []
    for report in fit(TASK, config, run):
        report.save(tmp_path / str(report.epoch))
        from safetensors.torch import load_file

        after = load_file(tmp_path / str(report.epoch) / MODEL)
        if before is not None:
            # running statistics of a frozen batch norm count as a change, too
            changed.append({int(name[0]) for name in after if not after[name].equal(before[name])})
        before = after
    assert changed == trained_blocks[1:]


def test_layer_decay_and_weight_decay_go_to_the_right_parameters():
    config = ToyConfig(learning_rate=0.1, layer_decay=0.5, weight_decay=0.3)
    model = TASK.build(config, type("info", (), {"classes": "abcd"}), Path(), True)
    groups = parameter_groups(model, TASK.blocks(model), config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found["0.0.weight"] == (0.025, 0.3)
    assert found["0.1.weight"] == (0.025, 0.0)  # a norm
    assert found["1.0.bias"] == (0.05, 0.0)
    assert found["2.weight"] == (0.1, 0.3)
    assert len(found) == len(names)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_warm_up_and_decay(schedule):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    config = ToyConfig(schedule=schedule, warmup_fraction=0.2)
    scheduler = make_schedule(optimizer, config, 100)
    rates = []
    for _ in range(100):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:20] == sorted(rates[:20])
    assert 0 < rates[0] < 0.1
    assert rates[20] == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert (rates[-1] < 0.05) == (schedule != "constant")


def test_validation_loss_ignores_label_smoothing(run):
    config = ToyConfig(epochs=1, learning_rate=1e-12)
    smooth = config.model_copy(update={"label_smoothing": 0.3})
    assert curve(smooth, run)[0]["val_loss"] == pytest.approx(curve(config, run)[0]["val_loss"])
    assert curve(smooth, run)[0]["train_loss"] != curve(config, run)[0]["train_loss"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_of_the_cpu(run, precision):
    assert math.isfinite(curve(ToyConfig(epochs=1, precision=precision), run)[0]["val_loss"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ToyConfig(precision="fp16"), "needs a CUDA device"),
        (ToyConfig(freezing="first_k", frozen_blocks=3), "must be from 1 to 2"),
        (ToyConfig(freezing="only_k", trained_block=2), "trained_block = 2: must be from 0 to 1"),
        (ToyConfig(freezing="lora", lora_from_block=2), "must be from 1 to 1"),
    ],
)
def test_what_does_not_suit_is_refused(run, config, message):
    with pytest.raises(InputError, match=message):
        next(fit(TASK, config, run))


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "altered"])
def test_a_damaged_checkpoint_is_named(tmp_path, run, name, damage):
    config = ToyConfig(epochs=2)
    next(fit(TASK, config, run)).save(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / name
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-3] + b"###")
    with pytest.raises(DamagedCheckpoint, match=r"checkpoint"):
        next(fit(TASK, config, TrainingRun(run.cache_folder, resume_from=path.parent)))


def test_a_checkpoint_describes_itself(tmp_path, run):
    config = ToyConfig(epochs=2, batch_size=8)
    next(fit(TASK, config, run)).save(tmp_path / "checkpoint")
    description = read_description(tmp_path / "checkpoint")
    assert description.task == "toy"
    assert description.epoch == 1
    assert ToyConfig.model_validate(description.config) == config
    assert (tmp_path / "checkpoint" / "assets" / "asset.txt").read_text() == "belongs to the data"
    json.loads((tmp_path / "checkpoint" / "checkpoint.json").read_text())


def test_evaluation_covers_every_sample(run, monkeypatch):
    config = ToyConfig()
    data = TASK.prepare(config, run.cache_folder)
    model = TASK.build(config, data.info, data.assets, True)
    whole = evaluation.evaluate(TASK, model, config, data, "val", run)
    monkeypatch.setattr(evaluation, "_EVALUATION_BATCH", 7)
    pieces = evaluation.evaluate(TASK, model, config, data, "val", run)
    assert whole.meter.state().sum() == len(data.splits["val"]) == 40
    assert (whole.meter.state() == pieces.meter.state()).all()
    assert pieces.metrics["loss"] == pytest.approx(whole.metrics["loss"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
@settings(deadline=None)
def test_metrics_agree_with_scikit_learn(pairs):
    targets = torch.tensor([target for target, _ in pairs])
    predictions = torch.tensor([prediction for _, prediction in pairs])
    meter = ClassificationMeter(DataInfo(tuple("abcde")))
    for start in range(0, len(pairs), 16):
        logits = torch.nn.functional.one_hot(predictions[start : start + 16], 5).float()
        meter.update(logits, {"label": targets[start : start + 16]})
    found = meter.compute(0.0)
    assert found["accuracy"] == pytest.approx((targets == predictions).float().mean().item())
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predictions, average="macro"))
