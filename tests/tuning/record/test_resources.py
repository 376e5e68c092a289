"""How many trials run at once on which nodes: never more than fit, wherever Ray places them."""

from __future__ import annotations

import random

import pytest
from helpers import sweep_controller
from hypothesis import given
from hypothesis import strategies as st

from trainables.errors import InputError
from tuning.before_start.options import SweepOptions, resolve
from tuning.engines.autoscaling import _from_file
from tuning.engines.ray_start import largest_extent
from tuning.hosting.assignment import EpochResult, Outcome
from tuning.record.events import Record
from tuning.record.resources import Node, Resources, fit_to, n_fitting, share_out

NODES = st.lists(
    st.builds(Node, cpus=st.integers(0, 64), gpus=st.sampled_from([0, 0, 1, 2, 4, 8])),
    min_size=1,
    max_size=8,
)


@given(
    nodes=NODES,
    n_workers=st.integers(1, 6),
    cpus=st.none() | st.sampled_from([0.5, 1.0, 3.0, 8.0]),
    gpus=st.none() | st.sampled_from([0.0, 1.0]),
    concurrency=st.none() | st.integers(1, 20),
    seed=st.integers(0, 100),
)
def test_whatever_the_order_all_workers_find_a_place(
    nodes, n_workers, cpus, gpus, concurrency, seed
):
    try:
        resources = share_out(
            nodes,
            n_workers=n_workers,
            cpus_per_trial=cpus,
            gpus_per_trial=gpus,
            concurrency=concurrency,
        )
    except InputError:
        assert cpus is not None or gpus == 1.0 or n_workers > 1 or not any(n.cpus for n in nodes)
        return
    assert 1 <= resources.concurrency <= (concurrency or 10**6)
    left = [[node.cpus, node.gpus] for node in nodes]
    generator = random.Random(seed)
    for _ in range(resources.concurrency * n_workers):
        able = [
            node
            for node in left
            if node[0] >= resources.cpus_per_trial and node[1] >= resources.gpus_per_trial
        ]
        assert able, "a worker would wait for ever"
        chosen = generator.choice(able)
        chosen[0] -= resources.cpus_per_trial
        chosen[1] -= resources.gpus_per_trial


@given(
    n_cpus=st.integers(1, 64), n_gpus=st.integers(0, 8), concurrency=st.integers(1, 9) | st.none()
)
def test_a_single_machine_is_shared_as_a_whole(n_cpus, n_gpus, concurrency):
    resources = share_out([Node(n_cpus, n_gpus)], concurrency=concurrency)
    if n_gpus and n_cpus >= n_gpus:
        at_once = min(n_gpus, concurrency or n_gpus)
        assert (resources.gpus_per_trial, resources.concurrency) == (1.0, at_once)
        assert resources.cpus_per_trial == n_cpus // at_once
    elif not n_gpus:
        assert resources.cpus_per_trial == max(1, n_cpus // min(n_cpus, concurrency or 4))


def test_a_trial_is_never_larger_than_a_node():
    resources = share_out([Node(16)] * 10)
    assert (resources.cpus_per_trial, resources.concurrency) == (16.0, 10)
    resources = share_out([Node(16)] * 2)
    assert (resources.cpus_per_trial, resources.concurrency) == (8.0, 4)
    uneven = share_out([Node(0), Node(7, 2), Node(4, 1)], n_workers=3)
    assert (uneven.cpus_per_trial, uneven.concurrency) == (3.0, 1)


@pytest.mark.parametrize(
    ("nodes", "options", "parts"),
    [
        ([Node(2)], {"cpus_per_trial": 3}, ["one trial needs 3 CPUs", "1 × node with 2 CPUs"]),
        ([Node(4)] * 2, {"cpus_per_trial": 6}, ["6 CPUs", "on one node", "2 × node with 4 CPUs"]),
        ([Node(8, 3)], {"n_workers": 4}, ["--workers = 4", "3 GPUs", "fits is --workers 3"]),
        (
            [Node(2), Node(8, 1, "gpu")],
            {"n_workers": 2, "gpus_per_trial": 2.0},
            ["1 × node with 2 CPUs, 1 × gpu with 8 CPUs and 1 GPUs", "not even one fits"],
        ),
    ],
)
def test_what_never_fits_is_told_with_what_there_is(nodes, options, parts):
    with pytest.raises(InputError) as caught:
        share_out(nodes, **options)
    for part in parts:
        assert part in str(caught.value)


def test_trials_at_once_follow_the_nodes():
    resources = share_out([Node(4)] * 4, n_workers=2, cpus_per_trial=2.0)
    assert resources.concurrency == 4
    assert fit_to(resources, [Node(4)] * 3).concurrency == 3
    assert fit_to(resources, [Node(2)]).concurrency == 0
    assert fit_to(resources, [Node(4)] * 9).concurrency == 9
    limited = share_out([Node(4)] * 4, concurrency=2)
    assert fit_to(limited, [Node(4)] * 9).concurrency == 2


CLUSTER_FILE = {
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 8}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 16, "GPU": 4, "memory": 1e9}, "max_workers": 2},
        "cpu": {"resources": {"CPU": 32}},  # as many as there may be
    },
}


def test_nodes_to_come_are_read_from_the_autoscalers_file():
    nodes = _from_file(CLUSTER_FILE)
    assert nodes == [Node(16, 4, "gpu"), Node(16, 4, "gpu"), Node(32, 0, "cpu")]
    assert _from_file({}) == []


def test_nodes_to_come_are_not_counted_beside_those_that_have():
    head, gpu = Node(0, 0, "head"), Node(16, 4, "gpu")
    assert largest_extent([head], [gpu] * 2) == [head, gpu, gpu]
    assert largest_extent([head, Node(16, 4)], [gpu] * 2) == [head, gpu, gpu]
    assert largest_extent([head, Node(4), Node(4)], []) == [head, Node(4), Node(4)]
    resources = share_out(largest_extent([head], [gpu] * 2), n_workers=4)
    assert (resources.concurrency, resources.cpus_per_trial) == (2, 4.0)
    assert n_fitting([head], 4.0, 1.0) == 0


@pytest.fixture
def controller(toy_sweep):
    sweep = toy_sweep(trials=3, scheduler="none", searcher="random")
    record = Record(sweep.folder)
    yield sweep_controller(sweep, record, Resources(1.0, 0.0, 2))
    record.close()


def test_a_controller_follows_its_nodes(controller):
    assert [controller.propose().trial, controller.propose().trial] == [0, 1]
    assert controller.propose() is None
    controller.resized(Resources(1.0, 0.0, 3))
    assert controller.propose().trial == 2
    controller.resized(Resources(1.0, 0.0, 0))
    controller.worker_lost(2)
    assert controller.propose() is None
    assert controller.n_ahead == 3
    controller.resized(Resources(1.0, 0.0, 3))
    assert controller.propose().trial == 2


def test_a_trial_of_several_workers_halves_its_micro_batch_until_it_is_one(workplace):
    options = {"name": "d", "trials": 1, "scheduler": "none", "engine": "inprocess"}
    sweep = resolve(SweepOptions(space="digits", settings=["batch_size=10"], **options))
    record = Record(sweep.folder)
    controller = sweep_controller(sweep, record, Resources(1.0, 1.0, 1, n_workers=2))
    ran_out = Outcome("infeasible", "OutOfMemory: no", out_of_memory=True)
    sizes = []
    while (assignment := controller.propose()) is not None:
        sizes.append(assignment.config["micro_batch_size"])
        assert assignment.config["batch_size"] == 10
        controller.ended(0, ran_out)
    assert sizes == [None, 3, 2, 1]  # each of the two has 5 samples of a batch
    assert record.history.trials[0].state == "infeasible"
    assert record.history.trials[0].gpus == 2.0
    assert record.history.trials[0].config["micro_batch_size"] is None
    record.close()


def test_a_confirmation_begins_with_the_micro_batch_that_its_trial_came_down_to(workplace):
    options = {"name": "d", "trials": 1, "scheduler": "none", "engine": "inprocess"}
    options |= {"confirm": 1, "confirm_seeds": 1}
    sweep = resolve(SweepOptions(space="digits", settings=["batch_size=10", "epochs=1"], **options))
    record = Record(sweep.folder)
    controller = sweep_controller(sweep, record, Resources(1.0, 1.0, 1, n_workers=2))
    ran_out = Outcome("infeasible", "OutOfMemory: no", out_of_memory=True)
    controller.propose()
    controller.ended(0, ran_out)
    assert controller.propose().config["micro_batch_size"] == 3
    controller.observe(0, EpochResult(1, {sweep.metric: 0.5}))
    controller.ended(0, Outcome("completed"))
    again = controller.propose()
    assert again.trial != 0
    assert again.config["micro_batch_size"] == 3
    controller.ended(again.trial, ran_out)
    assert controller.propose().config["micro_batch_size"] == 2
    record.close()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"n_workers": 0}, ["--workers = 0: must be at least 1"]),
        ({"n_workers": 2, "engine": "inprocess"}, ["--workers = 2", "--engine ray"]),
        ({"n_workers": 2, "gpus_per_trial": 0.5}, ["--gpus-per-trial = 0.5", "0 or 1"]),
        ({"n_workers": 2, "gpus_per_trial": "auto"}, ["--gpus-per-trial = auto", "0 or 1"]),
        ({"strategy": "fsdp"}, ["--strategy fsdp", "--workers 2 or more"]),
        ({"strategy": "fdsp"}, ["unknown strategy 'fdsp'", "fsdp"]),
        ({"n_workers": 3, "cpus_per_trial": 1.0}, ["--workers = 3", "is --workers 2"]),
        (
            {"n_workers": 2, "settings": ["batch_size=1"]},
            ["batch_size = 1: must be at least --workers = 2"],
        ),
    ],
)
def test_workers_that_can_not_be_are_refused_before_anything_starts(
    workplace, monkeypatch, options, parts
):
    monkeypatch.setattr("tuning.record.sweep.this_machine", lambda: (2, 0))
    with pytest.raises(InputError) as caught:
        resolve(SweepOptions(space="digits", **options))
    for part in parts:
        assert part in str(caught.value)
