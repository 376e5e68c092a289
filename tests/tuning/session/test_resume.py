"""Going on with a sweep after something has changed: code, data, place or search space."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import TOY_SPACE, InterruptingView, reopened
from records import runs_of

from trainables.errors import InputError
from tuning.before_start.options import SweepOptions, resolve
from tuning.before_start.resume_options import change_space
from tuning.record.events import read_events, read_history
from tuning.record.moved_paths import find_moved, relocate
from tuning.search.space_changes import point_in_space
from tuning.session.runner import run_sweep
from tuning.storage.saved_sweeps import open_sweep, save_sweep
from tuning.user_code.fingerprints import differences, take_fingerprints

OWN_SWEEP = ("--engine", "inprocess", "--metric", "value:max", "--name", "s", "--trials", "3")


def test_changed_code_is_refused_until_it_is_accepted(thaw, workplace):
    shutil.copy(TOY_SPACE, "own.py")
    assert thaw("sweep", "own.py", *OWN_SWEEP)[0] == 0
    text = Path("own.py").read_text()
    Path("own.py").write_text(text.replace("# of the memory of a GPU", "# a comment"))
    assert thaw("resume", "s", "--trials", "4")[0] == 0  # the same code

    Path("own.py").write_text(text.replace("1 - 0.5**epoch", "1 - 0.6**epoch"))
    events = Path("sweeps/s/events.jsonl")
    before = events.read_bytes()
    code, out, err = thaw("resume", "s", "--trials", "5", "--json")
    assert code == 2
    assert out == ""
    assert "what its trials measure has changed" in err
    assert "training file: own.py was" in err
    assert "--accept-changes" in err
    assert events.read_bytes() == before

    assert thaw("resume", "s", "--trials", "5", "--accept-changes")[0] == 0
    sittings = [e for e in read_events(Path("sweeps/s")) if e["event"] == "sitting_started"]
    assert [len(sitting["accepted"]) for sitting in sittings] == [0, 0, 1]
    trials = read_history(Path("sweeps/s")).trials
    assert trials[3].curve[1]["value"] > 0.4 * (1 - (trials[3].point["x"] - 0.3) ** 2)
    quality = 1 - (trials[4].point["x"] - 0.3) ** 2
    assert trials[4].curve[1]["value"] == pytest.approx(0.4 * quality)  # by the changed file
    assert Path("sweeps/s/own.py").read_text() == Path("own.py").read_text()
    assert thaw("resume", "s", "--trials", "6")[0] == 0  # accepted once


def test_a_changed_space_of_the_users_file_is_told_and_waits_to_be_asked_for(thaw, workplace):
    shutil.copy(TOY_SPACE, "own.py")
    assert thaw("sweep", "own.py", *OWN_SWEEP)[0] == 0
    text = Path("own.py").read_text()
    Path("own.py").write_text(
        text.replace("Float(0.0, 1.0)", "Float(2.0, 3.0)").replace('"x": 0.5', '"x": 2.5')
    )
    code, _, err = thaw("resume", "s", "--trials", "4")
    assert code == 0
    assert "SPACE of own.py was" in err
    assert read_history(Path("sweeps/s")).trials[3].point["x"] <= 1
    code, _, err = thaw("resume", "s", "--trials", "5", "--space", "own.py")
    assert code == 0, err
    assert "4 of 4 earlier trials are outside of the changed search space" in err
    assert read_history(Path("sweeps/s")).trials[4].point["x"] >= 2


def test_changed_data_is_refused(thaw, workplace):
    rows = [f"{'good' if i % 2 else 'bad'} text {i},{i % 2}" for i in range(60)]
    Path("data.csv").write_text("\n".join(["text,label", *rows]))
    settings = ("data=data.csv", "model=scratch:bert-mini", "epochs=1")
    options = [part for setting in settings for part in ("--set", setting)]
    sweep = ("sweep", "text_csv", "--engine", "inprocess", "--name", "s", "--trials", "1")
    code, _, err = thaw(*sweep, *options)
    assert code == 0, err
    Path("data.csv").write_text("\n".join(["text,label", *rows[:-6], *rows[:6]]))
    code, _, err = thaw("resume", "s", "--trials", "2")
    assert code == 2
    assert "data: " in err
    assert "data.csv" in err


def test_a_change_is_seen_in_what_a_file_imports_and_in_a_file_of_another_name(thaw, workplace):
    text = Path(TOY_SPACE).read_text()
    by_helper = text.replace("(1 - 0.5**epoch)", "grown(epoch)")
    Path("own.py").write_text(
        by_helper.replace("quality = 1", "from deep.growth import grown\n\n    quality = 1")
    )
    Path("deep").mkdir()
    Path("deep/growth.py").write_text("from bases import BASE\n\ngrown = lambda n: 1 - BASE**n\n")
    Path("bases.py").write_text("BASE = 0.5\n")
    Path("unrelated.py").write_text("BASE = 0.5\n")
    assert thaw("sweep", "own.py", *OWN_SWEEP)[0] == 0
    Path("unrelated.py").write_text("BASE = 0.6\n")
    assert thaw("resume", "s", "--trials", "4")[0] == 0
    Path("bases.py").write_text("BASE = 0.6\n")
    code, _, err = thaw("resume", "s", "--trials", "5")
    assert code == 2
    assert "module: bases.py was" in err
    Path("bases.py").write_text("BASE = 0.5\n")

    wide = Path("own.py").read_text().replace("Float(0.0, 1.0)", "Float(0.0, 2.0)")
    Path("wide.py").write_text(wide.replace("0.3) ** 2", "0.4) ** 2"))
    code, _, err = thaw("resume", "s", "--trials", "5", "--space", "wide.py")
    assert code == 2
    assert "training file: wide.py was" in err
    Path("wide.py").write_text(wide)
    code, _, err = thaw("resume", "s", "--trials", "5", "--space", "wide.py")
    assert code == 0, err


def test_a_change_is_seen_in_tracked_files_and_not_in_the_act_of_committing(toy_sweep, workplace):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    shutil.copy(TOY_SPACE, "own.py")
    Path("helper.py").write_text("A = 1\n")
    git("init", "-q")
    git("add", "own.py", "helper.py")
    git("commit", "-q", "-m", "begin")
    sweep = resolve(SweepOptions(space="own.py", metric="value:max", engine="inprocess"))
    first = take_fingerprints(sweep)
    assert set(first["repository"]) == {"own.py", "helper.py"}
    Path("helper.py").write_text("A = 2\n")
    changed = take_fingerprints(sweep)
    deciding, notes = differences(first, changed, {})
    assert [line.split(" was ")[0] for line in deciding] == ["repository: helper.py"]
    assert notes == []
    git("commit", "-q", "-a", "-m", "go on")
    deciding, notes = differences(changed, take_fingerprints(sweep), {})
    assert deciding == []
    assert [line.split(" was ")[0] for line in notes] == ["other: commit"]
    Path("helper.py").unlink()
    assert differences(first, take_fingerprints(sweep), {})[0] == ["repository: helper.py is gone"]


def test_a_change_of_the_package_is_named(toy_sweep):
    old = take_fingerprints(toy_sweep())
    assert len(old["package"]) > 20
    new = {**old, "package": {**old["package"], "training/loop.py": "0" * 16}}
    (line,), _ = differences(old, new, {})
    was = old["package"]["training/loop.py"][:12]
    assert line == f"package: training/loop.py was {was}, is 000000000000"


def test_a_sweep_goes_on_where_all_of_it_was_moved_to(thaw, tmp_path, monkeypatch, empty_mlflow):
    from PIL import Image

    old, new = tmp_path / "old" / "work", tmp_path / "new" / "work"
    old.mkdir(parents=True)
    shutil.copy(empty_mlflow, old / "mlflow.db")
    monkeypatch.chdir(old)
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (old / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(old / "images" / name / f"{i}.png")
    settings = {"model": "squeezenet1_1", "image_size": 32, "epochs": 2, "freezing": "head"}
    sweep = resolve(
        SweepOptions(
            space="image_folder",
            settings=["data=images", *(f"{name}={value}" for name, value in settings.items())],
            name="s",
            engine="inprocess",
            trials=2,
            scheduler="none",
        )
    )
    from tuning.before_start.space_checks import prepare_data

    run_sweep(prepare_data(sweep)[0], InterruptingView(after_epochs=3))
    new.parent.mkdir()
    old.rename(new)
    monkeypatch.chdir(new)
    code, _, err = thaw("resume", "s", "--trials", "3")
    assert code == 0, err
    found = open_sweep("s", Path("sweeps"))
    history = read_history(found.folder)
    assert found.space.fixed["data"] == str(new / "images")
    assert {trial.config["data"] for trial in history.trials.values()} == {str(new / "images")}
    assert [sorted(trial.curve) for trial in history.trials.values()] == [[1, 2]] * 3
    assert len(runs_of(found)) == 4


def test_a_sweep_that_is_done_starts_no_engine_and_fills_what_mlflow_lacks(thaw, workplace):
    assert thaw("sweep", TOY_SPACE, *OWN_SWEEP)[0] == 0
    sweep = open_sweep("s", "sweeps")
    sweep = replace(sweep, gpus_per_trial=8.0)  # which are not here
    save_sweep(sweep)
    (workplace / "mlflow.db").unlink()
    code, out, err = thaw("resume", "s")
    assert code == 0, err
    assert "nothing is left to train" in err
    assert "trials at once" not in err
    assert "ended because its 3 trials are done" in out
    assert len(runs_of(sweep)) == 4
    code, _, err = thaw("resume", "s", "--trials", "4")  # now something is left
    assert (code, "one trial needs" in err) == (2, True)


def test_what_to_type_next_finds_the_sweep_wherever_it_is(thaw, workplace, monkeypatch):
    assert thaw("sweep", TOY_SPACE, *OWN_SWEEP)[0] == 0
    assert open_sweep("s", "sweeps").reference == "s"
    Path("sweeps/s").rename("its place")
    _, out, _ = thaw("resume", "its place", "--trials", "4")
    assert "thaw trials 'its place'" in out
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert open_sweep("../its place", "sweeps").reference == f"'{workplace / 'its place'}'"
    Path("all").mkdir()
    (workplace / "its place").rename("all/s")
    monkeypatch.setenv("THAW_SWEEPS_FOLDER", "all")
    assert open_sweep("s", "all").reference == "s"


def test_only_what_is_gone_and_found_again_has_moved(tmp_path):
    new = tmp_path / "b" / "sweeps" / "s"
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "here").touch()
    values = {
        "data": "/gone/a/data",
        "lost": "/gone/a/lost",
        "here": str(tmp_path / "here"),
        "word": "data",
        "number": 3,
    }
    moved = find_moved(values, Path("/gone/a/sweeps/s"), new)
    assert moved == {"/gone/a/data": str(tmp_path / "b" / "data")}
    assert relocate(values, moved) == {**values, "data": str(tmp_path / "b" / "data")}


def write_space(file: Path, **replaced: str) -> None:
    text = Path(TOY_SPACE).read_text()
    for old, new in replaced.items():
        assert old in SPACE_LINES
        text = text.replace(SPACE_LINES[old], new)
    file.write_text(text)


SPACE_LINES = {
    "x": '"x": Float(0.0, 1.0)',
    "kind": 'Choice("plain", "scaled")',
    "scale": '"scale": Int(1, 3, when={"kind": "scaled"})',
    "starting": 'starting_points=[{"x": 0.5, "kind": "plain"}]',
    "share": '"gpu_share": 0.0',
}


def resumed(sweep, view, space: str | None, *settings: str, **changes):
    changed = change_space(reopened(sweep, **changes), space, settings)
    return run_sweep(changed, view, accept_changes=True)


def test_a_narrowed_space_keeps_what_fits(toy_sweep, run, view, workplace):
    sweep = toy_sweep(trials=8, searcher="random", scheduler="none")
    run(sweep)
    before = read_history(sweep.folder).trials
    inside = {n for n, trial in before.items() if trial.point["x"] <= 0.5}
    assert 0 < len(inside) < 8
    write_space(workplace / "narrow.py", x='"x": Float(0.0, 0.5)')
    resumed(sweep, view, "narrow.py", trials=14)
    dropped = sorted(set(before) - inside)
    note = next(message for message in view.messages if "outside of the changed" in message)
    assert note.startswith(f"{len(dropped)} of 8 earlier trials")
    assert f"(trials {', '.join(map(str, dropped))})" in note
    history = read_history(sweep.folder)
    after = history.trials
    assert list(after) == list(range(14))
    assert all(after[number].curve == before[number].curve for number in before)
    assert all(after[number].point["x"] <= 0.5 for number in range(8, 14))
    # and in a further sitting, which knows of the change from the record
    view.messages.clear()
    resumed(sweep, view, None, trials=15)
    assert any("outside of the changed" in message for message in view.messages)
    assert read_history(sweep.folder).trials[14].point["x"] <= 0.5


def test_a_widened_space_keeps_all(toy_sweep, run, view, workplace):
    sweep = toy_sweep("kind=plain", trials=4, scheduler="none")
    run(sweep)
    write_space(
        workplace / "wide.py", x='"x": Float(-4.0, 1.0)', kind='Choice("plain", "scaled", "odd")'
    )
    resumed(sweep, view, "wide.py", trials=16)
    assert not any("outside of the changed" in message for message in view.messages)
    trials = read_history(sweep.folder).trials
    assert {trials[number].config["kind"] for number in range(4)} == {"plain"}
    assert {"kind", "x"} <= set(trials[10].point)
    assert len({trials[number].config["kind"] for number in range(4, 16)}) > 1


NEW_POINTS = [{"x": 0.25, "kind": "plain"}, {"x": 0.75, "kind": "scaled", "scale": 2}]


@pytest.mark.parametrize("searcher", ["curves", "tpe", "nsga2"])
def test_starting_points_of_another_space_are_tried_if_they_are_new(
    toy_sweep, run, view, workplace, searcher
):
    sweep = toy_sweep(trials=6, searcher=searcher, scheduler="none")
    run(sweep)
    old = {"x": 0.5, "kind": "plain", "scale": 3}  # scale is not active, and was not then
    points = [NEW_POINTS[0], old, NEW_POINTS[1]]
    write_space(workplace / "new.py", starting=f"starting_points={points}")
    resumed(sweep, view, "new.py", trials=7)
    resumed(sweep, view, None, trials=10)
    trials = read_history(sweep.folder).trials
    assert [trials[number].point for number in (6, 7)] == NEW_POINTS
    assert all(trials[number].point["x"] not in (0.25, 0.5, 0.75) for number in (8, 9))


def test_a_setting_can_be_searched_no_longer(toy_sweep, run, view):
    sweep = toy_sweep(trials=6, searcher="random", scheduler="none")
    run(sweep)
    plain = [t for t in read_history(sweep.folder).trials.values() if t.point["kind"] == "plain"]
    resumed(sweep, view, None, "kind=plain", trials=9)
    trials = read_history(sweep.folder).trials
    assert all(trials[number].config["kind"] == "plain" for number in (6, 7, 8))
    assert any(message.startswith(f"{6 - len(plain)} of 6") for message in view.messages)
    assert all("scale" not in trials[number].point for number in (6, 7, 8))


def test_a_running_trial_that_no_longer_fits_is_not_gone_on_with(toy_sweep, view, workplace):
    sweep = toy_sweep(trials=3, scheduler="none")
    run_sweep(sweep, InterruptingView(after_epochs=2))  # of the starting point, x = 0.5
    write_space(workplace / "narrow.py", x='"x": Float(0.0, 0.4)', starting="starting_points=[]")
    resumed(sweep, view, "narrow.py", trials=3)
    trials = read_history(sweep.folder).trials
    assert [trial.state for trial in trials.values()] == ["interrupted", "completed", "completed"]
    assert len(trials[0].curve) == 2


def test_a_frozen_trial_that_no_longer_fits_is_never_thawed(toy_sweep, view, workplace):
    sweep = toy_sweep("epochs=9", trials=24)
    run_sweep(sweep, InterruptingView(after_epochs=40))
    trials = read_history(sweep.folder).trials.values()
    frozen = [t.number for t in trials if t.state == "frozen" and t.point["x"] > 0.6]
    assert frozen
    write_space(workplace / "narrow.py", x='"x": Float(0.0, 0.6)')
    resumed(sweep, view, "narrow.py", "epochs=9")
    trials = read_history(sweep.folder).trials
    assert [(trials[n].state, len(trials[n].curve)) for n in frozen] == [("pruned", 3)] * len(
        frozen
    )
    assert {trial.state for trial in trials.values()} == {"completed", "pruned"}


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        (None, ["epochs=9"], "epochs = 9: was 4 in sweep toy, and trials of the two can not"),
        ("digits", [], "its task is image_classification, and that of sweep toy is None"),
        (None, ["x=0.3", "kind=plain", "scale=1"], "nothing to search"),
        (None, ["nothing=1"], "unknown setting 'nothing'"),
        ("absent.py", [], "there is no such file"),
    ],
)
def test_spaces_that_can_not_be_gone_on_in_are_refused(toy_sweep, space, settings, message):
    save_sweep(toy_sweep())
    with pytest.raises(InputError, match=message):
        change_space(open_sweep("toy", Path("sweeps")), space, settings)


def test_a_grid_is_not_changed_on_the_way(toy_sweep):
    sweep = toy_sweep(searcher="grid")
    save_sweep(sweep)
    with pytest.raises(InputError, match="sweep toy searches a grid"):
        change_space(open_sweep("toy", Path("sweeps")), None, ["kind=plain"])


def test_a_trial_of_a_task_fits_by_its_whole_configuration(tiny_digits):
    sweep = tiny_digits()
    point = {name: domain.grid(2)[0] for name, domain in sweep.space.domains.items()}
    point = sweep.space.complete(point, None)
    config = json.loads(json.dumps(sweep.configuration(point)))
    assert point_in_space(sweep, config) == point
    assert point_in_space(sweep, {**config, "batch_size": 64}) is None  # fixed to 128
    assert point_in_space(sweep, {**config, "learning_rate": 1e9}) is None
