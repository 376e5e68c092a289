"""Which checkpoints stay: the best few, within a budget and what the disk holds."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import InterruptingView, reopened
from records import make_trials

from trainables.errors import InputError
from trainables.files import restore_folder, whole_folder, write_whole
from tuning.record.events import read_events
from tuning.session.runner import run_sweep
from tuning.storage import checkpoints, disk
from tuning.storage.checkpoints import CheckpointKeeper
from tuning.storage.stores import FolderStore, trial_key
from tuning.storage.trial_checkpoints import BEST, LAST


def test_a_keeper_deletes_what_is_not_among_the_best(tmp_path):
    keeper = CheckpointKeeper(FolderStore(tmp_path), 2, "m", "max")
    assert keeper.save_beyond() is None
    trials = make_trials(
        [("completed", 0.5), ("failed", 0.9), ("pruned", 0.7), ("completed", 0.6), ("pruned", None)]
    )
    bounds = []
    for trial in trials:
        for name in (BEST, LAST):
            (tmp_path / trial_key(trial.number) / name).mkdir(parents=True)
        keeper.ended(trial)
        keeper.settle()
        bounds.append(keeper.save_beyond())
    keeper.close()
    assert bounds == [None, None, 0.5, 0.6, 0.6]
    left = {
        (trial.number, folder.name)
        for trial in trials
        for folder in (tmp_path / trial_key(trial.number)).iterdir()
    }
    assert left == {(2, BEST), (3, BEST)}


def write_checkpoint(sweep_folder: Path, number: int, name: str, n_bytes: int) -> None:
    folder = sweep_folder / trial_key(number) / name
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(n_bytes))


def kept(sweep_folder: Path) -> set[tuple[int, str]]:
    keys = [key.split("/") for key in FolderStore(sweep_folder).sizes()]
    return {(int(number), name) for _, number, name in keys}


def test_a_budget_keeps_fewer_and_never_touches_what_has_not_ended(tmp_path):
    warnings: list[str] = []
    keeper = CheckpointKeeper(
        FolderStore(tmp_path), 3, "m", "max", budget_bytes=4500, warn=warnings.append
    )
    for name in (BEST, LAST):
        write_checkpoint(tmp_path, 9, name, 1000)  # of a trial that runs or is paused
    values = [0.1, 0.5, 0.3, 0.4, 0.2]
    for trial in make_trials([("completed", value) for value in values]):
        write_checkpoint(tmp_path, trial.number, BEST, 1000)
        keeper.ended(trial)
        keeper.settle()
    keeper.close()
    assert kept(tmp_path) == {(9, BEST), (9, LAST), (1, BEST), (3, BEST)}
    assert keeper.save_beyond() == 0.4  # there is no room for a third
    assert warnings == []


def test_the_best_stays_whatever_the_budget(tmp_path):
    warnings: list[str] = []
    keeper = CheckpointKeeper(
        FolderStore(tmp_path), 3, "m", "min", budget_bytes=500, warn=warnings.append
    )
    for trial in make_trials([("completed", 0.2), ("completed", 0.1)]):
        write_checkpoint(tmp_path, trial.number, BEST, 1000)
        keeper.ended(trial)
        keeper.settle()
    keeper.look()
    keeper.close()
    assert kept(tmp_path) == {(1, BEST)}
    (warning,) = warnings
    assert warning.startswith("checkpoints take 1 kB, and --checkpoint-budget is 500 B")


def test_with_room_for_all_a_budget_changes_nothing(tmp_path):
    keeper = CheckpointKeeper(FolderStore(tmp_path), 3, "m", "max", budget_bytes=10_000)
    for trial in make_trials([("completed", 0.2), ("completed", 0.1)]):
        write_checkpoint(tmp_path, trial.number, BEST, 1000)
        keeper.ended(trial)
        keeper.settle()
    keeper.close()
    assert kept(tmp_path) == {(0, BEST), (1, BEST)}
    assert keeper.save_beyond() is None


def test_what_a_killed_process_left_half_written_is_deleted_with_the_end(tmp_path):
    (trial,) = make_trials([("completed", 0.2)])
    for name in (BEST, LAST, ".best-abc", ".last-old-abc", "best.damaged"):
        write_checkpoint(tmp_path, 0, name, 10)
    keeper = CheckpointKeeper(FolderStore(tmp_path), 3, "m", "max")
    keeper.ended(trial)
    keeper.close()
    assert kept(tmp_path) == {(0, BEST)}


def test_a_folder_is_found_again_whose_replacement_was_killed_half_way(tmp_path):
    folder = tmp_path / "best"
    with whole_folder(folder) as partial:
        (partial / "file").write_text("old")
    hidden = tmp_path / ".best-old-x"
    hidden.mkdir()
    os.rename(folder, hidden / "old")  # as ``whole_folder`` does before the second rename
    (tmp_path / ".best-y").mkdir()
    restore_folder(folder)
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file(small_disk):
    path = small_disk / "file"
    write_whole(path, "old")
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "x" * 4_000_000)
    assert path.read_text() == "old"
    assert list(small_disk.iterdir()) == [path]


def test_a_sweep_is_not_begun_where_there_is_no_room(toy_sweep, view, small_disk):
    sweep = toy_sweep(sweeps_folder=small_disk)
    with pytest.raises(InputError) as caught:
        run_sweep(sweep, view)
    for part in (str(sweep.folder), " MB free", "67.1 MB needed", "--sweeps-folder"):
        assert part in str(caught.value)


def test_a_budget_beyond_the_disk_is_told(toy_sweep, run, view):
    sweep = toy_sweep(trials=1, checkpoint_budget_bytes=10**15)
    run(sweep)
    (note,) = [message for message in view.messages if "--checkpoint-budget" in message]
    assert "leaves 1e+03 TB" in note


def test_a_disk_that_fills_up_costs_old_checkpoints_and_no_trial(
    toy_sweep, view, small_disk, monkeypatch
):
    """Checkpoints of 0.5 MB on 3 MB, where five are to be kept: in the end there is no room."""
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 100_000)
    monkeypatch.setattr(checkpoints, "LEAST_FREE_BYTES", 100_000)
    monkeypatch.setattr(checkpoints, "_SECONDS_BETWEEN_LOOKS", 0.0)
    sweep = toy_sweep(
        "checkpoint_bytes=500000",
        "seconds=0.1",  # a training takes longer than a look at the disk
        trials=12,
        keep_checkpoints=12,
        scheduler="none",
        searcher="random",
        sweeps_folder=small_disk,
    )
    summary = run_sweep(sweep, view).summary
    assert summary["trials"]["completed"] == 12
    troubles = [e["message"] for e in read_events(sweep.folder) if e["event"] == "trouble"]
    assert sum("is nearly full" in message for message in troubles) == 1
    best = summary["best"]
    assert (Path(best["checkpoint"]) / "state.json").exists()
    assert 1 < len(kept(sweep.folder)) < 6


def test_a_disk_too_full_for_any_checkpoint_costs_no_trial_and_is_told(
    toy_sweep, view, small_disk, monkeypatch
):
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 100_000)
    options = {"trials": 2, "scheduler": "none", "sweeps_folder": small_disk}
    sweep = toy_sweep("checkpoint_bytes=4000000", **options)
    summary = run_sweep(sweep, view).summary
    assert summary["trials"]["completed"] == 2
    assert summary["best"]["checkpoint"] is None
    notes = [event["note"] for event in view.events if event["event"] == "epoch"]
    assert all("was not written: [Errno 28] No space left" in note for note in notes)
    assert kept(sweep.folder) == set()


def test_a_damaged_checkpoint_is_told_with_its_path(toy_sweep, view):
    sweep = toy_sweep(trials=1)
    run_sweep(sweep, InterruptingView(after_epochs=3))
    best = sweep.folder / trial_key(0) / BEST
    (best / "state.json").write_text("{")
    assert run_sweep(reopened(sweep), view).summary["trials"]["completed"] == 1
    notes = [event.get("note") or event.get("message") for event in view.events]
    (note,) = [note for note in notes if note and "damaged" in note]
    assert str(best) in note
    assert note.endswith("goes on from the start")
    assert json.loads((best / "state.json").read_text()) == {"epoch": 4}
