"""Packing under a real Ray, with a GPU that it is only told of: the training is on the CPU."""

from __future__ import annotations

import pytest

from tuning.engines.ray_environment import prepare_ray
from tuning.record.events import read_events

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def ray_with_a_gpu():
    prepare_ray()
    import ray

    options = {"include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=3, num_gpus=1, **options)
    yield
    ray.shutdown()


def test_trials_come_to_share_a_gpu_and_all_of_them_run(toy_sweep, run, ray_with_a_gpu):
    sweep = toy_sweep(
        "gpu_share=0.2",
        "seconds=0.4",
        engine="ray",
        trials=8,
        scheduler="none",
        gpus_per_trial="auto",
    )
    assert run(sweep).summary["trials"]["completed"] == 8
    running, most = set(), {}
    for event in read_events(sweep.folder):
        if event["event"] == "trial_started":
            running.add(event["trial"])
            most[event["gpus"]] = max(most.get(event["gpus"], 0), len(running))
        elif event["event"] == "trial_ended":
            running.remove(event["trial"])
    assert most == {1.0: 1, 0.3333: 3}
