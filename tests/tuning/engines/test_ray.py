"""The same sweeps under a real Ray: warm actors, equal numbers, dying workers, retraining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import BENCHMARKS, TOY_SPACE, sole_ray

from trainables.errors import RunFailed
from tuning.after.retrain import retrain
from tuning.before_start.options import SweepOptions, resolve
from tuning.record.events import read_history

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """One local Ray for all tests of this file: starting it is most of their time."""
    with sole_ray():
        yield


@pytest.mark.long
def test_trials_may_run_in_processes_that_are_there_already(monkeypatch):
    """Ray takes one that it has started ahead for an actor without an environment of its own."""
    from tuning.engines.ray_actors import TrialActor
    from tuning.engines.ray_tune import _TrialClasses

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert _TrialClasses().get(TrialActor)._default_options.get("runtime_env") is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    options = _TrialClasses().get(TrialActor)._default_options
    assert options["runtime_env"] == {"env_vars": {"AWS_ACCESS_KEY_ID": "key"}}


def test_the_engines_compute_the_same(toy_sweep, run):
    options = {"trials": 8, "searcher": "random", "scheduler": "none"}
    curves = {}
    for engine in ("ray", "inprocess"):
        sweep = toy_sweep(name=engine, engine=engine, **options)
        summary = run(sweep).summary
        assert summary["trials"]["completed"] == 8
        trials = read_history(sweep.folder).trials
        curves[engine] = {
            number: (trial.config, {e: m["value"] for e, m in trial.curve.items()})
            for number, trial in trials.items()
        }
    assert curves["ray"] == curves["inprocess"]


@pytest.mark.long
def test_real_training_gives_the_same_numbers_in_both_engines(tiny_digits, run):
    curves = {}
    for engine in ("ray", "inprocess"):
        sweep = tiny_digits(name=engine, engine=engine, cpus_per_trial=1.0, scheduler="none")
        run(sweep)
        trials = read_history(sweep.folder).trials
        curves[engine] = {
            number: [(m["train_loss"], m["val_loss"], m["val_accuracy"]) for m in t.curve.values()]
            for number, t in trials.items()
        }
    assert len(curves["ray"]) == 2
    assert curves["ray"] == curves["inprocess"]


def test_actors_stay_warm_from_trial_to_trial(toy_sweep, run):
    sweep = toy_sweep(engine="ray", trials=20, scheduler="none")
    run(sweep)
    trials = read_history(sweep.folder).trials.values()
    processes = {metrics["pid"] for trial in trials for metrics in trial.curve.values()}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    first, last = trials_in_order = sorted(trials, key=lambda trial: trial.started)[::19]
    assert last.ended - first.ended < 25, trials_in_order


def test_failed_and_pruned_trials_do_not_end_the_sweep(toy_sweep, run):
    sweep = toy_sweep(
        "fault=raise", "fault_beyond=0.8", "epochs=9", engine="ray", trials=15, searcher="random"
    )
    summary = run(sweep).summary
    trials = read_history(sweep.folder).trials.values()
    assert sum(summary["trials"].values()) == 15
    assert summary["trials"]["failed"] > 0
    assert summary["trials"]["pruned"] > 0
    assert all(trial.error for trial in trials if trial.state == "failed")
    assert summary["best"]["config"]["x"] <= 0.8


def test_a_trial_whose_worker_dies_goes_on_elsewhere(toy_sweep, run):
    sweep = toy_sweep(
        "fault=die", "fault_beyond=-1", engine="ray", trials=2, scheduler="none", concurrency=1
    )
    summary = run(sweep).summary
    assert (sweep.cache_folder / "died").exists()
    assert summary["trials"]["completed"] == 2
    trial = read_history(sweep.folder).trials[0]
    assert sorted(trial.curve) == [1, 2, 3, 4]
    assert len({metrics["pid"] for metrics in trial.curve.values()}) == 2


@pytest.mark.long
def test_a_trial_that_hangs_costs_its_process_and_nothing_else(toy_sweep, run):
    sweep = toy_sweep(
        "fault=hang",
        "fault_beyond=0.4",
        engine="ray",
        trials=6,
        searcher="random",
        scheduler="none",
        epoch_timeout_seconds=2.0,
    )
    summary = run(sweep).summary
    trials = read_history(sweep.folder).trials.values()
    hung = [trial for trial in trials if trial.config["x"] > 0.4]
    assert 0 < len(hung) < 6
    assert summary["trials"]["failed"] == len(hung)
    assert summary["trials"]["completed"] == 6 - len(hung)
    assert all("no epoch report within 2 s" in (trial.error or "") for trial in hung)


LEAKY = """
import os
from search_spaces.domains import Choice, SearchSpace
from trainables.task import EpochReport

SPACE = SearchSpace(name="leaky", domains={"x": Choice(0, 1, 2, 3, 4, 5)})
KEPT = []

def train(config, run):
    if config["x"] == 0:
        KEPT.extend(open(os.devnull) for _ in range(100))
    yield EpochReport(1, {"value": float(config["x"]), "pid": float(os.getpid())}, lambda f: None)
"""


@pytest.mark.long
def test_a_trial_that_leaks_costs_its_process_and_nothing_else(workplace, run):
    (workplace / "leaky.py").write_text(LEAKY)
    options = {"metric": "value:max", "searcher": "grid", "scheduler": "none", "concurrency": 1}
    sweep = resolve(SweepOptions(space="leaky.py", name="leaky", **options))
    summary = run(sweep).summary
    assert summary["trials"]["completed"] == 6
    trials = list(read_history(sweep.folder).trials.values())
    pids = [trial.curve[1]["pid"] for trial in trials]
    leak = next(i for i, trial in enumerate(trials) if trial.config["x"] == 0)
    before, after = set(pids[: leak + 1]), set(pids[leak + 1 :])
    assert len(before) == 1
    assert len(after) == (leak < 5)
    assert not before & after


HOARDING = """
import resource
from search_spaces.domains import Choice, SearchSpace
from trainables.task import EpochReport

SPACE = SearchSpace(name="hoarding", domains={"x": Choice(0, 1, 2)})

def train(config, run):
    yield EpochReport(1, {"value": 1.0}, lambda folder: None)
    if config["x"] == 1:
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (4096 * pages + 400_000_000,) * 2)
        kept = []
        while True:
            kept.append(bytearray(20_000_000))
    yield EpochReport(2, {"value": 2.0}, lambda folder: None)
"""


@pytest.mark.long
def test_a_trial_that_takes_all_memory_fails_alone(workplace, run):
    (workplace / "hoarding.py").write_text(HOARDING)
    options = {"metric": "value:max", "searcher": "grid", "scheduler": "none", "concurrency": 1}
    sweep = resolve(SweepOptions(space="hoarding.py", name="hoarding", **options))
    summary = run(sweep).summary
    assert summary["trials"] | {"completed": 2, "failed": 1} == summary["trials"]
    trials = read_history(sweep.folder).trials.values()
    (failed,) = [trial for trial in trials if trial.state == "failed"]
    assert failed.config["x"] == 1
    assert "MemoryError" in failed.error or "its worker process died" in failed.error


@pytest.mark.long
@pytest.mark.parametrize("n_workers", [1, 2])
def test_retraining_repeats_the_trial_and_registers_a_champion(tiny_digits, run, view, n_workers):
    from mlflow import MlflowClient

    from tuning.after.predict import predict

    sweep = tiny_digits(trials=2, cpus_per_trial=1.0, scheduler="none")
    run(sweep)
    number = 2 - n_workers  # trial 0 is the default configuration
    trial = read_history(sweep.folder).trials[number]
    document = retrain(
        sweep, trial_number=number, n_workers=n_workers, n_seeds=2, view=view, engine="ray"
    )
    json.dumps(document)
    assert [row["seed"] for row in document["seeds"]] == [1, 2]  # fresh: 0 has chosen the trial
    assert document["test_reads_before"] == 0
    assert read_history(sweep.folder).test_reads == [number]
    if n_workers == 1:
        values = [row["val_accuracy"] for row in document["default"]["seeds"]]
        gains = {gain["metric"]: gain for gain in document["gains"]}
        assert list(gains) == ["val_accuracy", "test_accuracy"]
        means = [document["mean"], sum(values) / 2]
        assert gains["val_accuracy"]["mean"] == pytest.approx(means[0] - means[1])
        assert "test accuracy is" in document["verdict"]
    else:
        assert document["verdict"].startswith("it is the default configuration")
    assert 0 <= document["test"]["accuracy"] <= 1
    confusion = document["artifacts"]["confusion_matrix.json"]
    assert sum(map(sum, confusion["counts"])) == 269
    assert document["model_uri"] == "models:/digits@champion"
    client = MlflowClient(tracking_uri=sweep.tracking_uri)
    version = client.get_model_version_by_alias("digits", "champion")
    run_of_champion = client.get_run(version.run_id).data
    assert run_of_champion.tags["thaw.verdict"] == document["verdict"]
    assert ("gain.test_accuracy" in run_of_champion.metrics) == (n_workers == 1)
    artifacts = {item.path for item in client.list_artifacts(version.run_id)}
    assert ("comparison.json" in artifacts) == (n_workers == 1)
    assert {"confusion_matrix.png", "confusion_matrix.json"} <= artifacts

    from PIL import Image

    Image.new("L", (8, 8), 90).save("grey.png")
    by_uri = predict(document["model_uri"], ["grey.png"], None)
    by_path = predict(document["checkpoint"], ["grey.png"], None)
    assert by_uri == by_path
    assert by_path[0]["label"] in confusion["classes"]

    if n_workers == 1:  # one seed repeats the trial
        again = retrain(sweep, trial_number=1, n_workers=1, n_seeds=1, view=view, engine="ray")
        assert again["seeds"][0]["seed"] == 0
        assert again["seeds"][0]["val_accuracy"] == trial.value("val_accuracy", "max")
        assert again["test_reads_before"] == 1
        assert "--seeds 2 or more" in again["verdict"]


@pytest.mark.long
def test_a_users_own_training_is_retrained_and_its_failure_told(toy_sweep, run, view):
    sweep = toy_sweep("fault=raise", trials=10, scheduler="none", searcher="random")
    run(sweep)
    sweep = replace(sweep, engine="ray")
    document = retrain(sweep, n_workers=2, n_seeds=2, view=view)
    assert document["model_uri"] is None
    assert document["test"] is None
    assert [row["value"] for row in document["seeds"]] == [document["trial_value"]] * 2
    assert (Path(document["checkpoint"]) / "state.json").exists()
    assert sum("configuration, seed 1, epoch" in message for message in view.messages) == 4
    assert sum("default, seed 1, epoch" in message for message in view.messages) == 4
    assert document["gains"][0]["standard_deviation"] == 0  # this training has no noise
    trials = read_history(sweep.folder).trials.values()
    failed = next(trial.number for trial in trials if trial.state == "failed")
    with pytest.raises(RunFailed, match="something broke in epoch 2"):
        retrain(sweep, trial_number=failed, n_workers=1, n_seeds=1, view=view)


@pytest.mark.long
def test_the_best_are_confirmed_under_ray(toy_sweep, run):
    sweep = toy_sweep(engine="ray", trials=5, scheduler="none", confirm=2, confirm_seeds=2)
    summary = run(sweep).summary
    assert summary["trials"]["completed"] == 5
    history = read_history(sweep.folder)
    assert len(history.confirmations) == 4
    last = max(trial.ended for trial in history.trials.values())
    assert all(trial.started >= last for trial in history.confirmations.values())
    assert [len(row["values"]) for row in summary["confirmed"]] == [2, 2]
    assert summary["best"]["trial"] == summary["confirmed"][0]["trial"]


@pytest.mark.long
def test_a_target_ends_trials_under_ray(toy_sweep, run):
    sweep = toy_sweep("seconds=0.2", engine="ray", trials=50, target=0.45, scheduler="none")
    summary = run(sweep).summary
    assert summary["ended_by"] == "target"
    assert sum(summary["trials"].values()) <= 4
    assert summary["trials"]["pruned"] > 0


def run_thaw(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [THAW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        signal.SIGKILL,
        pytest.param("ray", marks=pytest.mark.long),
    ],
)
def test_a_sweep_survives_ctrl_c_and_kill(workplace, how, monkeypatch):
    """The real command line, its driver stopped in the middle, then `thaw resume`."""
    arguments = ["--metric", "value:max", "--trials", "6", "--name", "s", "--scheduler", "none"]
    settings = ["--set", "seconds=0.5"]
    process = run_thaw("sweep", TOY_SPACE, *arguments, *settings, "--json")
    wait_for_epochs(workplace / "sweeps" / "s" / "events.jsonl", 6, process)
    if how == "ray":
        kill_ray_of(process, monkeypatch)
    else:
        process.send_signal(how)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    if how == "ray":
        assert "thaw resume s" in stderr
    if how == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert json.loads(stdout)["sweep"] == "s"
    before = read_history(workplace / "sweeps" / "s").trials
    assert 0 < len(before) < 6
    process = run_thaw("resume", "s", "--json")
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    document = json.loads(stdout)
    assert document["trials"] == {"completed": 6, "pruned": 0, "failed": 0, "infeasible": 0}
    after = read_history(workplace / "sweeps" / "s").trials
    assert all(sorted(trial.curve) == [1, 2, 3, 4] for trial in after.values())
    done = [number for number, trial in before.items() if trial.state == "completed"]
    assert [after[number].curve for number in done] == [before[number].curve for number in done]


def kill_ray_of(process: subprocess.Popen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill what a driver's Ray consists of, but for its workers, which then end by themselves."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from processes import process_tree

    names = {
        pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid, _ in process_tree(process.pid)
    }
    killed = [pid for pid, name in names.items() if name in ("raylet", "gcs_server")]
    assert len(killed) == 2, names
    for pid in killed:
        os.kill(pid, signal.SIGKILL)


def wait_for_epochs(path: Path, n_epochs: int, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if path.exists() and path.read_text().count('"event": "epoch"') >= n_epochs:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"no {n_epochs} epochs within 120 s: {process.communicate()[1]}")
