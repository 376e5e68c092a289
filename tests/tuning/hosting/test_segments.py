"""A training whose settings change in the middle: from a checkpoint, and replayed in one go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import TASK, TIMES, ToyConfig, curve

from trainables.task import EpochReport, TrainingRun
from trainables.training.loop import fit
from trainables.training.optim import configure_again, configured, make_optimizer, make_schedule
from tuning.hosting.segments import replay
from tuning.storage.stores import FolderStore

FIRST = ToyConfig(epochs=5, learning_rate=0.01, weight_decay=0.1, layer_decay=0.9)


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    return TrainingRun(cache_folder=tmp_path / "cache")


def changed(**settings) -> ToyConfig:
    return FIRST.model_copy(update=settings)


def checkpoint_after(config: ToyConfig, run: TrainingRun, epoch: int, folder: Path) -> Path:
    for report in fit(TASK, config, run):
        if report.epoch == epoch:
            report.save(folder)
            return folder
    raise AssertionError


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_changed_learning_rate_is_really_used(run, tmp_path, schedule, optimizer):
    first = changed(schedule=schedule, optimizer=optimizer, warmup_fraction=0.2)
    second = first.model_copy(update={"learning_rate": 0.03})
    folder = checkpoint_after(first, run, 2, tmp_path / "checkpoint")
    again = TrainingRun(run.cache_folder, resume_from=folder)
    plain, other = curve(first, again), curve(second, again)
    rates = [[metrics["learning_rate"] for metrics in each] for each in (plain, other)]
    # The schedule's factor is where it was: three times the rate at every epoch, to its end.
    assert rates[1] == pytest.approx([3 * rate for rate in rates[0]])
    assert rates[0] == [metrics["learning_rate"] for metrics in curve(first, run)][2:]
    assert plain == curve(first, run)[2:]  # nothing else changed
    assert other[0]["train_loss"] != plain[0]["train_loss"]


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.9},
        {"layer_decay": 0.1},
        {"label_smoothing": 0.4},
        {"gradient_clip_norm": 1e-4},
        {"momentum": 0.1, "optimizer": "sgd"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_setting_that_may_change_makes_a_difference(run, tmp_path, settings):
    optimizer = settings.get("optimizer", "adamw")
    first = changed(optimizer=optimizer)
    folder = checkpoint_after(first, run, 2, tmp_path / "checkpoint")
    again = TrainingRun(run.cache_folder, resume_from=folder)
    other = curve(first.model_copy(update=settings), again)
    assert other[-1]["val_loss"] != curve(first, again)[-1]["val_loss"]


def test_what_was_gathered_stays_and_what_is_configured_is_new():
    model = TASK.build(FIRST, type("info", (), {"classes": "abcd"}), Path(), True)

    def make(config: ToyConfig):
        optimizer = make_optimizer(model, TASK.blocks(model), config)
        return optimizer, make_schedule(optimizer, config, 10)

    optimizer, schedule = make(FIRST)
    for _ in range(4):
        model(torch.randn(8, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    new, new_schedule = make(changed(learning_rate=0.02, weight_decay=0.5))
    groups = configured(new)
    new.load_state_dict(optimizer.state_dict())
    new_schedule.load_state_dict(schedule.state_dict())
    configure_again(new, new_schedule, groups)
    assert new_schedule.last_epoch == 4
    for before, after in zip(optimizer.param_groups, new.param_groups, strict=True):
        assert after["lr"] == pytest.approx(2 * before["lr"])
        assert after["initial_lr"] == pytest.approx(2 * before["initial_lr"])
        assert after["weight_decay"] == (0.5 if before["weight_decay"] else 0.0)
        for parameter in after["params"]:
            assert new.state[parameter]["step"] == 4
    rates = new_schedule.get_last_lr()
    assert rates == [group["lr"] for group in new.param_groups]


def without_times(reports: list[EpochReport]) -> list[dict[str, float]]:
    return [{n: v for n, v in report.metrics.items() if n not in TIMES} for report in reports]


def test_a_replay_equals_the_training_that_was_stopped_and_changed(run, tmp_path):
    second, third = changed(learning_rate=0.03, label_smoothing=0.1), changed(learning_rate=0.002)
    parts = curve(FIRST, run)[:2]
    folder = checkpoint_after(FIRST, run, 2, tmp_path / "a")
    parts += curve(second, TrainingRun(run.cache_folder, resume_from=folder))[:1]
    again = TrainingRun(run.cache_folder, resume_from=folder)
    folder = checkpoint_after(second, again, 3, tmp_path / "b")
    parts += curve(third, TrainingRun(run.cache_folder, resume_from=folder))

    schedule = [(1, FIRST), (3, second), (4, third)]
    reports = list(
        replay(
            lambda config, r: fit(TASK, config, r), schedule, run, FolderStore(tmp_path), "scratch"
        )
    )
    assert without_times(reports) == parts
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert not (tmp_path / "scratch").exists()


def test_a_replay_can_be_gone_on_with(run, tmp_path):
    schedule = [(1, FIRST), (3, changed(learning_rate=0.03)), (5, changed(learning_rate=0.001))]

    def train(config, r):
        return fit(TASK, config, r)

    whole = []
    for report in replay(train, schedule, run, FolderStore(tmp_path), "s"):
        whole.append(report)
        if report.epoch == 3:
            report.save(tmp_path / "checkpoint")
    again = TrainingRun(run.cache_folder, resume_from=tmp_path / "checkpoint")
    rest = list(replay(train, schedule, again, FolderStore(tmp_path), "s", done=3))
    assert without_times(rest) == without_times(whole[3:])


def test_closing_a_replay_closes_the_training(run, tmp_path):
    closed = []

    def train(config, r):
        try:
            for epoch in (1, 2, 3):
                yield EpochReport(epoch, {}, lambda folder: None)
        finally:
            closed.append(config)

    reports = replay(train, [(1, "a"), (3, "b")], run, FolderStore(tmp_path), "s")
    assert next(reports).epoch == 1
    reports.close()
    assert closed == ["a"]


def test_a_plain_training_is_passed_on_as_it_is(run, tmp_path):
    def train(config, r):
        return iter([EpochReport(1, {}, print)])

    reports = replay(train, [(1, {})], run, FolderStore(tmp_path), "s")
    assert [report.epoch for report in reports] == [1]
