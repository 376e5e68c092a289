"""Sweeps whose home is a URI: run, killed, resumed, read; and what happens when it does not answer.

All of it in this process, over an S3 on the loopback interface and over file://.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from helpers import TOY_SPACE, InterruptingView, RecordingView
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem, SubTreeFileSystem

from trainables.errors import InputError
from tuning.record.events import EVENTS_FILE, read_history
from tuning.record.sweep import Sweep
from tuning.record.uris import join_uri
from tuning.session.runner import run_sweep
from tuning.session.summary import checkpoint_of, fetch_checkpoint
from tuning.storage import driver_lock, uri_store, working_copy
from tuning.storage.driver_lock import HOLDER_FILE
from tuning.storage.remote import RemoteFolder
from tuning.storage.saved_sweeps import open_sweep
from tuning.storage.uri_store import UriStore
from tuning.storage.working_copy import Uploads, fetch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(working_copy, "_SECONDS_BETWEEN_UPLOADS", 0.1)
    monkeypatch.setattr(driver_lock, "_SECONDS_TO_SETTLE", 0.0)
    monkeypatch.setattr(RemoteFolder, "_connect", connect_without_retries)


def connect_without_retries(remote: RemoteFolder):
    """As ``_connect``; where nobody answers, pyarrow tries for six seconds."""
    if remote._connected is None:
        filesystem, base = FileSystem.from_uri(remote.uri)
        if filesystem.type_name == "s3":
            (endpoint,) = parse_qs(urlsplit(remote.uri).query)["endpoint_override"]
            once = AwsStandardS3RetryStrategy(max_attempts=1)
            filesystem = S3FileSystem(
                endpoint_override=endpoint, scheme="http", retry_strategy=once
            )
        remote._connected = SubTreeFileSystem(base, filesystem)
    return remote._connected


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.long)])
def home(request, tmp_path) -> str:
    """The URI of a sweeps folder."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    uri: str = request.getfixturevalue("bucket")
    return uri


def elsewhere(monkeypatch, tmp_path: Path, name: str = "elsewhere") -> None:
    """Be another machine from now on: one with another cache folder."""
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / name))


def events_at(uri: str) -> bytes:
    return RemoteFolder(uri).read(EVENTS_FILE) or b""


def test_a_sweep_runs_is_read_and_goes_on_elsewhere(toy_sweep, run, home, monkeypatch, tmp_path):
    sweep = toy_sweep(sweeps_folder=home, trials=6, searcher="random", scheduler="none")
    assert sweep.home == join_uri(home, "toy")
    summary = run(sweep).summary
    assert summary["folder"] == sweep.home
    assert summary["trials"]["completed"] == 6
    assert summary["best"]["checkpoint"].startswith(home.partition("?")[0] + "/toy/trials/")
    assert not (sweep.folder / "trials").exists()
    remote = RemoteFolder(sweep.home)
    top = set(remote.files(recursive=False))
    assert {"events.jsonl", "sweep.json", "study.journal", "toy_space.py", "code.zip"} == top
    assert events_at(sweep.home) == (sweep.folder / EVENTS_FILE).read_bytes()
    kept = {path.split("/")[1] for path in remote.files("trials")}
    assert len(kept) == 3  # --keep-checkpoints
    versions = {path.rpartition("/")[0] for path in remote.files("trials")}
    assert len(versions) == 3  # one of each

    elsewhere(monkeypatch, tmp_path)
    found = open_sweep("toy", home)
    assert found.folder != sweep.folder
    history = read_history(found.folder)
    assert len(history.trials) == 6
    best = history.trials[summary["best"]["trial"]]
    assert checkpoint_of(found, best) == summary["best"]["checkpoint"]
    copy = fetch_checkpoint(found, best)
    assert copy is not None
    assert json.loads((copy / "state.json").read_text()) == {"epoch": 4}
    result = run(with_trials(found, 8))
    assert result.summary["trials"]["completed"] == 8
    assert len(read_history(open_sweep(sweep.home, "sweeps").folder).trials) == 8


def with_trials(sweep: Sweep, trials: int) -> Sweep:
    return type(sweep)(**{**vars(sweep), "trials": trials})


def test_the_command_line_takes_a_uri(thaw, home, tmp_path, monkeypatch):
    shutil.copy(TOY_SPACE, "own.py")
    options = ("--engine", "inprocess", "--metric", "value:max", "--name", "s", "--trials", "3")
    code, out, err = thaw("sweep", "own.py", *options, "--sweeps-folder", home)
    assert code == 0, err
    uri = join_uri(home, "s")
    assert uri in out
    Path("own.py").unlink()
    elsewhere(monkeypatch, tmp_path)
    code, out, _ = thaw("trials", "s", "--sweeps-folder", home, "--json")
    assert code == 0
    assert [row["state"] for row in json.loads(out)] == ["completed"] * 3
    code, out, _ = thaw("best", uri, "--json")
    assert code == 0
    assert json.loads(out)["checkpoint"].startswith(home.partition("?")[0])
    code, _, err = thaw("resume", uri, "--trials", "4", "--json")
    assert code == 0, err
    code, _, err = thaw("sweep", TOY_SPACE, *options, "--sweeps-folder", home)
    assert code == 2
    assert "exists already" in err
    assert uri in err
    code, _, err = thaw("best", "t", "--sweeps-folder", home)
    assert code == 2
    assert "unknown sweep 't'; valid: s" in err
    code, _, err = thaw("best", "toy_spac", "--sweeps-folder", "ftp://host/x")
    assert code == 2
    assert "s3://" in err


KILLED = """
import os, signal, sys, time
from tuning.storage import driver_lock
from tuning.storage import working_copy
from tuning.storage.remote import RemoteFolder
from tuning.record.uris import join_uri
from tuning.before_start.options import SweepOptions, resolve
from tuning.command_line.live_view import make_view
from tuning.session.runner import run_sweep

working_copy._SECONDS_BETWEEN_UPLOADS = 0.1
view = make_view()
update = view.update
def count(event):
    update(event)
    if event["event"] == "epoch" and event["trial"] == 2 and event["epoch"] == 3:
        home = RemoteFolder(join_uri(sys.argv[2], "toy"))
        while home.read("events.jsonl").count(b'"trial_ended"') < 2:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
view.update = count
run_sweep(resolve(SweepOptions(space=sys.argv[1], sweeps_folder=sys.argv[2], name="toy",
    engine="inprocess", trials=5, metric="value:max", scheduler="none", settings=["seconds=0.2"],
)), view)
"""


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_after_a_kill_nothing_that_ended_is_lost(
    run, home, workplace, where, monkeypatch, tmp_path
):
    command = [sys.executable, "-c", KILLED, TOY_SPACE, home]
    process = subprocess.run(command, timeout=100, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    if where == "elsewhere":
        elsewhere(monkeypatch, tmp_path)
        monkeypatch.setattr(driver_lock, "SECONDS_UNTIL_GONE", 0.0)  # of the driver there
    found = open_sweep("toy", home)
    before = read_history(found.folder).trials
    assert [trial.state for trial in before.values()][:2] == ["completed"] * 2
    result = run(found)
    assert result.summary["trials"]["completed"] == 5
    after = read_history(found.folder).trials
    assert all(sorted(trial.curve) == [1, 2, 3, 4] for trial in after.values())
    assert [after[n].curve for n in (0, 1)] == [before[n].curve for n in (0, 1)]
    assert events_at(join_uri(home, "toy")) == (found.folder / EVENTS_FILE).read_bytes()
    n_epochs = events_at(join_uri(home, "toy")).count(b'"event": "epoch"')
    assert n_epochs == 20  # trial 2 went on from its checkpoint, and none was told twice


def test_what_this_machine_alone_has_is_kept(home, workplace, tmp_path):
    uri, said = join_uri(home, "s"), []
    copy = working_copy.working_copy(uri, tmp_path / "cache")
    copy.mkdir(parents=True)
    remote = RemoteFolder(uri)

    def state(here: bytes, there: bytes) -> bytes:
        (copy / EVENTS_FILE).write_bytes(here)
        remote.write(EVENTS_FILE, there)
        remote.write("sweep.json", b"there")
        fetch(uri, copy, said.append)
        return (copy / EVENTS_FILE).read_bytes()

    assert state(b"1\n2\n", b"1\n") == b"1\n2\n"  # it was killed before it could upload
    assert not (copy / "sweep.json").exists()
    assert state(b"1\n2", b"1\n") == b"1\n2"
    assert state(b"1\n", b"1\n2\n") == b"1\n2\n"
    assert (copy / "sweep.json").read_bytes() == b"there"
    assert said == []
    assert state(b"1\nX\n", b"1\n2\n") == b"1\n2\n"
    (message,) = said
    assert "has gone on elsewhere" in message
    (aside,) = copy.parent.glob("s.2*")
    assert (aside / EVENTS_FILE).read_bytes() == b"1\nX\n"
    assert str(aside) in message


def test_one_driver_at_a_time(toy_sweep, view, home, monkeypatch, tmp_path):
    sweep = toy_sweep(sweeps_folder=home, trials=2)
    other = {"host": "another-host", "pid": 77}
    remote = RemoteFolder(sweep.home or "")
    remote.write(HOLDER_FILE, json.dumps(other).encode())
    with pytest.raises(InputError, match="is being run by process 77 on another-host"):
        run_sweep(sweep, view)
    assert json.loads(remote.read(HOLDER_FILE) or b"") == other
    monkeypatch.setattr(driver_lock, "SECONDS_UNTIL_GONE", 0.0)
    assert run_sweep(sweep, view).summary["trials"]["completed"] == 2
    assert remote.read(HOLDER_FILE) is None
    monkeypatch.setattr(driver_lock, "SECONDS_UNTIL_GONE", 60.0)
    gone = {**driver_lock.myself(), "process_started": 1.0}
    remote.write(HOLDER_FILE, json.dumps(gone).encode())  # of this host, and killed
    run_sweep(with_trials(open_sweep("toy", home), 3), view)


def test_two_that_start_at_once_do_not_both_go_on(home, monkeypatch):
    uri = join_uri(home, "s")
    remote = RemoteFolder(uri)

    def settle(seconds: float) -> None:  # meanwhile, on another machine
        remote.write(HOLDER_FILE, json.dumps({"host": "quicker", "pid": 5}).encode())

    monkeypatch.setattr(driver_lock.time, "sleep", settle)
    with (
        pytest.raises(InputError, match="process 5 on quicker"),
        driver_lock.sole_driver_at("s", uri),
    ):
        pass
    assert b"quicker" in (remote.read(HOLDER_FILE) or b"")


def test_a_home_that_can_not_be_written_is_refused_at_once(thaw, s3, tmp_path):
    uri = s3.uri("nowhere")
    started = time.monotonic()
    code, out, err = thaw("sweep", TOY_SPACE, "--metric", "value:max", "--sweeps-folder", uri)
    assert time.monotonic() - started < 20
    assert (code, out) == (2, "")
    for part in (uri, "NO_SUCH_BUCKET", "make the bucket"):
        assert part in err


def test_a_home_that_does_not_answer_is_told_with_what_this_machine_knows(
    toy_sweep, run, s3, bucket, monkeypatch
):
    sweep = toy_sweep(sweeps_folder=bucket, trials=1)
    run(sweep)
    s3.stop()
    try:
        with pytest.raises(InputError) as caught:
            open_sweep("toy", bucket)
    finally:
        s3.start()
    for part in (bucket.partition("?")[0], "this machine reaches it", str(sweep.folder)):
        assert part in str(caught.value)


class Cutting(RecordingView):
    """Takes the S3 away after some epochs, and brings it back after some more."""

    def __init__(self, s3, away_after: int, back_after: int) -> None:
        super().__init__()
        self._s3, self._away, self._back, self._n = s3, away_after, back_after, 0
        self._is_away = False

    def update(self, event) -> None:
        super().update(event)
        if event["event"] == "epoch":
            self._n += 1
            if self._n == self._away:
                self._s3.stop()
                self._is_away = True
            if self._n == self._back:
                self.bring_back()

    def bring_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._s3.start()


def test_training_goes_on_while_the_home_is_away(toy_sweep, s3, bucket, monkeypatch):
    monkeypatch.setattr(uri_store, "_SECONDS_BETWEEN_ATTEMPTS", 5.0)
    sweep = toy_sweep("seconds=0.05", sweeps_folder=bucket, trials=6, scheduler="none")
    view = Cutting(s3, 7, 12)
    try:
        result = run_sweep(sweep, view)
    finally:
        view.bring_back()
    assert result.summary["trials"]["completed"] == 6
    notes = [event.get("note") or "" for event in view.events if event["event"] == "epoch"]
    missed = [note for note in notes if "was not written" in note]
    assert 0 < len(missed) < 24
    assert all(str(sweep.home).partition("?")[0] in note for note in missed)
    assert events_at(sweep.home) == (sweep.folder / EVENTS_FILE).read_bytes()
    best = result.summary["best"]
    assert best["checkpoint"] is not None
    trial = read_history(sweep.folder).trials[best["trial"]]
    copy = fetch_checkpoint(sweep, trial)
    assert copy is not None
    assert json.loads((copy / "state.json").read_text()) == {"epoch": 4}


def test_a_home_that_stays_away_costs_nothing_but_the_upload(toy_sweep, s3, bucket, monkeypatch):
    monkeypatch.setattr(working_copy, "_SECONDS_TO_FINISH_FAILING", 1.0)
    sweep = toy_sweep(sweeps_folder=bucket, trials=3, scheduler="none")
    view = Cutting(s3, 5, 10**9)
    try:
        result = run_sweep(sweep, view)
    finally:
        view.bring_back()
    assert result.summary["trials"]["completed"] == 3
    here = (sweep.folder / EVENTS_FILE).read_bytes()
    assert events_at(sweep.home) != here
    (message,) = [m for m in view.messages if "lacks the newest" in m]
    assert str(sweep.folder) in message
    (told,) = [m for m in view.messages if "Training goes on" in m]
    assert str(sweep.home).partition("?")[0] in told
    # Nothing that was recorded is lost: the next sitting here uploads it.
    found = open_sweep("toy", bucket)
    assert (found.folder / EVENTS_FILE).read_bytes() == here
    assert run_sweep(with_trials(found, 4), view).summary["trials"]["completed"] == 4
    assert events_at(sweep.home).startswith(here)


def test_what_changes_is_uploaded_and_what_passes_is_not(home, tmp_path):
    folder, said = tmp_path / "copy", []
    (folder / "retrain" / "1").mkdir(parents=True)
    passing = (".hidden", "driver.lock", "study.journal.lock1f.rename", "driver.json")
    for name in ("events.jsonl", "retrain/1/error.txt", *passing):
        (folder / name).write_text("1")
    (folder / "trials" / "0000").mkdir(parents=True)
    (folder / "trials" / "0000" / "weights").write_text("never")
    uploads = Uploads(join_uri(home, "s"), folder, said.append)
    uploads.start()
    (folder / "events.jsonl").write_text("12")
    assert uploads.close()
    remote = RemoteFolder(join_uri(home, "s"))
    assert set(remote.files()) == {"events.jsonl", "retrain/1/error.txt"}
    assert remote.read("events.jsonl") == b"12"
    assert said == []


def test_a_budget_holds_at_a_uri(toy_sweep, run, home):
    sweep = toy_sweep(
        "checkpoint_bytes=100000",
        sweeps_folder=home,
        trials=6,
        scheduler="none",
        searcher="random",
        checkpoint_budget_bytes=250_000,
    )
    run(sweep)
    sizes = [file.size for path, file in RemoteFolder(sweep.home or "").files("trials").items()]
    assert 100_000 < sum(sizes) <= 250_000


def test_a_damaged_checkpoint_at_a_uri_costs_its_epochs_and_no_more(toy_sweep, view, home):
    sweep = toy_sweep(sweeps_folder=home, trials=1)
    run_sweep(sweep, InterruptingView(after_epochs=3))
    remote = RemoteFolder(sweep.home or "")
    (state,) = [path for path in remote.files("trials") if path.endswith("/state.json")]
    n_bytes = remote.files("trials")[state].size
    remote.write(state, b"{" + b" " * (n_bytes - 1))
    result = run_sweep(open_sweep("toy", home), view)
    assert result.summary["trials"]["completed"] == 1
    notes = [event.get("note") or event.get("message") for event in view.events]
    (note,) = [note for note in notes if note and "damaged" in note]
    assert str(sweep.home).partition("?")[0] in note
    assert note.endswith("goes on from the start")


def test_a_warm_start_finds_the_sweep_beside_it(toy_sweep, run, home):
    run(toy_sweep(sweeps_folder=home, trials=3, scheduler="none"))
    second = toy_sweep(sweeps_folder=home, name="second", warm_start="toy")
    assert second.warm_start["note"].startswith("warm start from sweep toy: 3 of 3 trials used")


@pytest.mark.long
@pytest.mark.timeout(280)
def test_a_winner_at_a_uri_is_retrained(tiny_digits, run, view, bucket, workplace):
    from tuning.after.predict import predict
    from tuning.after.retrain import retrain

    sweep = tiny_digits(sweeps_folder=bucket, trials=1)
    run(sweep)
    found = open_sweep("digits", bucket)
    document = retrain(found, n_workers=1, view=view)
    assert document["checkpoint"].startswith(bucket.partition("?")[0])
    assert document["test"]["accuracy"] > 0
    assert b'"retrained"' in events_at(sweep.home)
    names = {path.rpartition("/")[2] for path in RemoteFolder(sweep.home).files("retrain")}
    assert {"test.json", "model.safetensors", ".whole.json"} <= names
    from PIL import Image

    Image.new("L", (8, 8), 90).save("grey.png")
    by_uri = predict(document["checkpoint"], ["grey.png"], None)
    assert by_uri == predict(document["model_uri"], ["grey.png"], None)


def test_the_store_of_a_sweep_is_where_its_home_is(toy_sweep, home):
    from tuning.storage.open_store import store_of

    assert isinstance(store_of(toy_sweep(sweeps_folder=home)), UriStore)
    assert not (Path.cwd() / "cache").exists()
