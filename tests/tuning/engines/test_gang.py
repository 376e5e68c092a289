"""Trials of several workers under a real Ray, on a machine where one gang of two fits at a time."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples import image_example
from helpers import BENCHMARKS, SUPPORT, sole_ray

from trainables.task import TrainingRun
from tuning.before_start.options import SweepOptions, resolve
from tuning.engines import gang_coordinator
from tuning.hosting.assignment import Assignment, EpochResult
from tuning.hosting.trial_host import TrialHost
from tuning.record.events import read_events, read_history
from tuning.storage.open_store import address_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
GANG_SPACE = str(SUPPORT / "gang_space.py")
# Of metrics, against one worker: sums are taken in another order, and errors grow with each step.
TOLERANCE = 1e-3
PROCESSES = ("RayTrainWorker", "TrainController", "PlacementGroupCleaner", "GangRelay", "Exchange")


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    sys.path.append(str(BENCHMARKS))  # for its list of processes
    with sole_ray():
        yield


def left_behind() -> list[str]:
    """Placement groups, processes of workers and taken CPUs that this Ray still has."""
    import ray
    from processes import process_tree
    from ray.util import placement_group_table

    groups = [group["state"] for group in placement_group_table().values()]
    left = [f"placement group {state}" for state in groups if state != "REMOVED"]
    free, all_there_is = ray.available_resources(), ray.cluster_resources()
    left += [f"{free.get('CPU')} CPUs"] if free.get("CPU") != all_there_is["CPU"] else []
    for pid, _ in process_tree(os.getpid()):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except OSError:
            continue
        left += [title for name in PROCESSES if f"ray::{name}" in title]
    return left


def wait_until_nothing_is_left() -> None:
    for _ in range(100):
        left = left_behind()
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {left}")


def test_two_workers_train_each_trial_and_stay_for_the_next(workplace, run):
    settings = ["fault=none"]
    options = {"metric": "value:max", "searcher": "grid", "scheduler": "none", "n_workers": 2}
    sweep = resolve(SweepOptions(GANG_SPACE, "gang", settings, trials=2, **options))
    assert run(sweep).summary["trials"]["completed"] == 2
    trials = read_history(sweep.folder).trials.values()
    gangs = [(m["pid0"], m["pid1"]) for trial in trials for m in trial.curve.values()]
    assert len(gangs) == 6
    assert len({*gangs}) == 1
    assert len({*gangs[0], os.getpid()}) == 3
    wait_until_nothing_is_left()


@pytest.mark.long
def test_a_fault_in_one_worker_costs_its_trial_at_most(workplace, run, monkeypatch):
    """More trials than fit, with every fault there is, of which each costs a gang."""
    monkeypatch.setattr(gang_coordinator, "GRACE_SECONDS", 3.0)
    options = {"metric": "value:max", "searcher": "grid", "scheduler": "none", "n_workers": 2}
    sweep = resolve(SweepOptions(GANG_SPACE, "gang", ["x=0"], epoch_timeout_seconds=8.0, **options))
    summary = run(sweep).summary
    assert summary["trials"] == {"completed": 3, "pruned": 0, "failed": 2, "infeasible": 0}
    trials = read_history(sweep.folder).trials
    gangs = {
        trial.config["fault"]: [(m["pid0"], m["pid1"]) for _, m in sorted(trial.curve.items())]
        for trial in trials.values()
    }
    assert len({*gangs["none"][0], os.getpid()}) == 3
    order = [trials[number].config["fault"] for number in range(5)]
    for one, other in itertools.pairwise(order):
        stays = one not in ("raise", "hang")
        assert (gangs[one][-1] == gangs[other][0]) == stays, (one, other)
    raised, hung, died = (trials[order.index(fault)] for fault in ("raise", "hang", "die"))
    assert "something broke in one worker" in raised.error
    assert "no epoch report within 8 s" in hung.error
    assert gangs["die"][0] != gangs["die"][1] == gangs["die"][2]
    assert [died.curve[epoch]["resumed_from"] for epoch in (1, 2, 3)] == [0.0, 1.0, 1.0]
    retried = [event for event in read_events(sweep.folder) if event["event"] == "trial_retried"]
    assert [event["trial"] for event in retried] == [died.number]
    wait_until_nothing_is_left()


@pytest.mark.long
def test_two_workers_freeze_and_thaw_and_train_as_one_does(workplace, run):
    """A sweep over images, in which trials are frozen and go on, in warm processes."""
    data = image_example(workplace / "data").settings["data"]
    settings = [f"data={data}", "model=squeezenet1_1", "image_size=32", "epochs=6", "dropout=0"]
    settings += ["stem=standard"]  # the small one costs 16 times as much
    settings += ["weights=none", "batch_size=12", "freezing=none", "augmentation=none"]
    settings += ["optimizer=sgd"]  # AdamW makes much of the smallest differences
    options = {"name": "images", "trials": 9, "searcher": "random", "n_workers": 2}
    options["strategy"] = "fsdp"  # for which all workers have to take part in a checkpoint
    sweep = resolve(SweepOptions(space="image_folder", settings=settings, **options))
    summary = run(sweep).summary
    assert summary["trials"]["completed"] >= 1
    assert summary["trials"]["pruned"] >= 1
    assert sum(summary["trials"].values()) == 9
    events = read_events(sweep.folder)
    frozen = {event["trial"] for event in events if event.get("state") == "frozen"}
    history = read_history(sweep.folder)
    thawed = [n for n in frozen if max(history.trials[n].curve) > 2]
    assert thawed
    for number in {0, thawed[0]}:
        trial = history.trials[number]
        alone = one_worker(sweep, trial.config, len(trial.curve))
        for epoch, metrics in trial.curve.items():
            for name in ("train_loss", "val_loss", "val_accuracy"):
                assert metrics[name] == pytest.approx(alone[epoch][name], rel=TOLERANCE), epoch
    wait_until_nothing_is_left()


def one_worker(sweep, config, n_epochs: int) -> dict[int, dict[str, float]]:
    """What one worker makes of a trial's configuration, without Ray."""
    host = TrialHost(
        Assignment(
            trial=0,
            config=config,
            task=sweep.space.task,
            train_file=None,
            key="alone",
            store=address_of(sweep),
            run=TrainingRun(sweep.cache_folder),
            metric="val_accuracy",
            mode="max",
            save_beyond=2.0,
            cpus=1.0,
            gpus=0.0,
            seconds_between_checkpoints=1e9,
        )
    )
    curve = {}
    for _ in range(n_epochs):
        result = host.step()
        assert isinstance(result, EpochResult), result
        curve[result.epoch] = dict(result.metrics)
    host.close()
    return curve


CLOSED_WHILE_IT_WAITS = """
import sys, time
from tuning.engines.ray_environment import prepare_ray

prepare_ray()
import ray
from ray.util import placement_group, placement_group_table
from tuning.engines.gang_pool import GangPool
from tuning.record.resources import Resources

ray.init(address=sys.argv[1], log_to_driver=False)
taken = placement_group([{"CPU": 1}])
pool = GangPool(Resources(1.0, 0.0, concurrency=1, n_workers=2), most=1)
deadline = time.monotonic() + 60
states = set()
while states != {"CREATED", "PENDING"} and time.monotonic() < deadline:
    states = {group["state"] for group in placement_group_table().values()} - {"REMOVED"}
    time.sleep(0.2)
began = time.monotonic()
pool.close()
print(sorted(states), [thread.is_alive() for thread in pool._threads])
print(time.monotonic() - began)
ray.shutdown()
time.sleep(1)  # a thread that still used Ray would end this process
"""


@pytest.mark.long
def test_a_gang_that_waits_for_room_is_ended_with_the_pool(workplace):
    """It would use Ray after its shutdown: then Ray ends the process, with exit code 1."""
    import ray

    address = ray.get_runtime_context().gcs_address
    driver = subprocess.run(
        [sys.executable, "-c", CLOSED_WHILE_IT_WAITS, address],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert driver.returncode == 0, driver.stderr
    found, seconds = driver.stdout.splitlines()
    assert found == "['CREATED', 'PENDING'] [False]"
    assert float(seconds) < 15
    wait_until_nothing_is_left()
