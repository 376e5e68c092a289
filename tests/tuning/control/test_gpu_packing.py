"""Several trials on one GPU: how many, who decides it, and what becomes of those that fail."""

from __future__ import annotations

import math

import pytest
from helpers import sweep_controller
from hypothesis import given
from hypothesis import strategies as st

from trainables.errors import InputError, OutOfMemory
from tuning.after.results import trial_rows
from tuning.control.gpu_packing import CONTEXT_BYTES, FRAGMENTATION, Packing
from tuning.hosting.assignment import EpochResult, Outcome
from tuning.record.events import Record
from tuning.record.resources import Node, share_out

GIB = 2**30
MEASUREMENTS = st.lists(st.tuples(st.floats(0, 100 * GIB), st.sampled_from([16 * GIB, 80 * GIB])))


def measured(packing: Packing, peak: float, gpu: float) -> None:
    packing.learn({"peak_memory_bytes": peak, "gpu_memory_bytes": gpu}, None)


def needed(peak: float) -> float:
    return FRAGMENTATION * peak + CONTEXT_BYTES


@given(measurements=MEASUREMENTS, most=st.integers(1, 8), ran_out=st.lists(st.integers(1, 8)))
def test_what_is_packed_fits_and_is_never_packed_tighter_again(measurements, most, ran_out):
    packing = Packing(most)
    assert packing.trials_per_gpu == 1
    found = []
    for peak, gpu in measurements:
        measured(packing, peak, gpu)
        found.append(packing.trials_per_gpu)
    for n in ran_out:
        packing.learn({}, n)
        found.append(packing.trials_per_gpu)
        assert packing.trials_per_gpu < n or n == 1
    assert all(1 <= n <= most for n in found)
    for peak, gpu in measurements:
        assert packing.trials_per_gpu * needed(peak) <= gpu * (1 + 1e-9) or found[-1] == 1
    if measurements:
        assert found == sorted(found, reverse=True)
        other_order = Packing(most)
        for peak, gpu in reversed(measurements):
            measured(other_order, peak, gpu)
        assert other_order.trials_per_gpu == found[len(measurements) - 1]


def test_all_trials_of_a_crowd_lower_the_packing_once():
    packing = Packing(8)
    measured(packing, GIB, 80 * GIB)
    assert packing.trials_per_gpu == 8
    for _ in range(8):
        packing.learn({}, 8)
    assert packing.trials_per_gpu == 7


@given(
    n_cpus=st.integers(1, 64),
    n_gpus=st.integers(1, 8),
    cpus_per_trial=st.none() | st.sampled_from([0.5, 1.0, 2.0]),
    concurrency=st.none() | st.integers(1, 40),
)
def test_slots_of_one_gpu_fit_on_it_with_their_cpus(n_cpus, n_gpus, cpus_per_trial, concurrency):
    try:
        resources = share_out(
            [Node(n_cpus, n_gpus)],
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial="auto",
            concurrency=concurrency,
        )
    except InputError:
        assert cpus_per_trial is not None
        return
    assert resources.slot().gpus == 1.0
    assert resources.concurrency <= (concurrency or math.inf)
    assert resources.n_at_first <= n_gpus
    for n in range(1, resources.most_per_gpu + 1):
        slot = resources.slot(n)
        assert n * round(slot.gpus + 4e-5, 4) <= 1.0 + 4e-4 * (n == 1)  # Ray rounds to 1e-4
        assert n == 1 or n * slot.cpus <= n_cpus / n_gpus + 1e-9
        assert slot.n_threads >= 1


def test_without_a_gpu_auto_means_none():
    assert share_out([Node(4)], gpus_per_trial="auto") == share_out([Node(4)])


class Driver:
    """Plays the engine: runs what the controller proposes, and reports memory as it is told."""

    def __init__(self, sweep, n_cpus: int = 8, n_gpus: int = 1) -> None:
        self.record = Record(sweep.folder)
        self.events = []
        self.record.listen(self.events.append)
        resources = share_out([Node(n_cpus, n_gpus)], gpus_per_trial="auto")
        self.controller = sweep_controller(sweep, self.record, resources)

    def propose_all(self) -> list:
        return list(iter(self.controller.propose, None))

    def report(self, number: int, epoch: int, peak: float, **metrics: float) -> None:
        memory = {"peak_memory_bytes": peak, "gpu_memory_bytes": 80.0 * GIB}
        self.controller.observe(number, EpochResult(epoch, {"value": 0.5, **memory, **metrics}))

    def end(self, number: int, outcome: Outcome | None = None) -> None:
        self.controller.ended(number, outcome or Outcome("completed"))

    def packings(self) -> list[int]:
        return [e["trials_per_gpu"] for e in self.events if e["event"] == "packing"]


@pytest.fixture
def sweep(toy_sweep):
    return toy_sweep(trials=40, scheduler="none", searcher="random")


def test_the_first_trial_measures_and_the_next_share_its_gpu(sweep):
    driver = Driver(sweep)
    (first,) = driver.propose_all()
    assert (first.gpus, first.cpus, first.run.n_threads, first.run.device) == (1.0, 8.0, 8, "cuda")
    driver.report(0, 1, peak=15 * GIB)  # 19.5 GiB with all that comes on top
    assert driver.propose_all() == []  # it has the whole GPU until it ends
    driver.end(0)
    packed = driver.propose_all()
    assert [(trial.gpus, trial.cpus) for trial in packed] == [(0.25, 2.0)] * 4
    driver.report(1, 1, peak=30 * GIB)
    driver.end(1)
    driver.end(2)
    # A half fits where two quarters still run, a second does not.
    assert [trial.gpus for trial in driver.propose_all()] == [0.5]
    assert driver.packings() == [4, 2]
    rows = trial_rows(sweep, driver.record.history)
    assert [row["gpus"] for row in rows] == [1.0, 0.25, 0.25, 0.25, 0.25, 0.5]
    reason = "4 trials share a GPU from now on: its tensors took 15.0 of 80.0 GiB"
    assert rows[0]["packing"] == reason
    assert rows[2]["packing"] is None


def test_each_gpu_begins_with_one_trial(sweep):
    driver = Driver(sweep, n_cpus=8, n_gpus=2)
    assert [trial.gpus for trial in driver.propose_all()] == [1.0, 1.0]
    driver.report(0, 1, peak=GIB)
    driver.end(0)
    assert [trial.gpus for trial in driver.propose_all()] == [0.25] * 4  # as the CPUs allow
    driver.end(1)
    assert len(driver.propose_all()) == 4


def test_a_halved_micro_batch_lowers_the_packing_and_is_told_once(sweep):
    driver = Driver(sweep)
    driver.propose_all()
    driver.report(0, 1, peak=15 * GIB)
    driver.end(0)
    number = driver.propose_all()[0].trial
    driver.record.history.trials[number].config["batch_size"] = 64
    driver.report(number, 1, peak=15 * GIB, micro_batch_size=32.0)
    driver.report(number, 2, peak=15 * GIB, micro_batch_size=32.0)
    assert driver.packings() == [4, 3]
    notes = [event["note"] for event in driver.events if event["event"] == "epoch"]
    assert notes == [None, "out of memory with a micro-batch of 64; it is 32 now", None]
    assert "it ran out of memory" in driver.record.history.trials[number].tags["packing"]


def test_a_trial_that_does_not_fit_among_others_is_tried_again_with_fewer(sweep):
    driver = Driver(sweep)
    driver.propose_all()
    driver.report(0, 1, peak=15 * GIB)
    driver.end(0)
    numbers = [trial.trial for trial in driver.propose_all()]
    crowded = Outcome("infeasible", "OutOfMemory: no", out_of_memory=True)
    for n, slot in ((4, 0.3333), (3, 0.5), (2, 1.0)):
        for number in numbers:
            driver.end(number, crowded)
        again = driver.propose_all()
        assert [trial.trial for trial in again] == numbers[::-1][: len(again)]
        assert {trial.gpus for trial in again} == {slot}, n
        numbers = [trial.trial for trial in again]
    driver.end(numbers[0], crowded)  # alone
    assert driver.record.history.trials[numbers[0]].state == "infeasible"
    assert driver.packings() == [4, 3, 2, 1]
    retried = [event for event in driver.events if event["event"] == "trial_retried"]
    assert retried[0]["reason"] == "out of memory with 4 trials on a GPU"


def test_a_sweep_is_not_over_while_a_trial_may_come_back(toy_sweep):
    driver = Driver(toy_sweep(trials=2, scheduler="none"))
    driver.propose_all()
    driver.report(0, 1, peak=15 * GIB)
    driver.end(0)
    (last,) = driver.propose_all()
    assert not driver.controller.exhausted
    driver.end(last.trial, Outcome("infeasible", "OutOfMemory: no", out_of_memory=True))
    driver.controller.close()
    assert driver.record.history.trials[last.trial].state == "interrupted"


def test_a_host_says_that_memory_ran_out(toy_sweep, monkeypatch):
    from tuning.hosting import trial_host

    def train(config, run):
        raise OutOfMemory("even alone")
        yield

    driver = Driver(toy_sweep(trials=1))
    (assignment,) = driver.propose_all()
    monkeypatch.setattr(trial_host, "training_function", lambda task, file: train)
    outcome = trial_host.TrialHost(assignment).step()
    assert outcome == Outcome("infeasible", "OutOfMemory: even alone", out_of_memory=True)
