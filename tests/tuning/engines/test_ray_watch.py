"""A Ray of the driver's own that starts slowly, or ends: in order, or under its driver."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(400)]

START = """
import time, types
from tuning.engines.ray_environment import prepare_ray
prepare_ray()
import ray
from tuning.engines import ray_start

sweep = types.SimpleNamespace(address=None, reference="toy", cpus_per_trial=0.5)
"""
SLOWLY = """
assert len(ray_start.start(sweep)) == 1
ray_start.disconnect()
"""
# Every Python process reads it. Ray's node manager waits 15 s to hear an agent's port.
SLOW_AGENTS = """
import sys, time
if any(word.endswith("agent.py") or "runtime_env/agent" in word for word in sys.orig_argv):
    time.sleep(18)
"""
# With what remains of Ray, the driver does what ends it at once.
UNDER_ITS_DRIVER = """
import numpy
ray_start.resources_of = lambda *arguments: types.SimpleNamespace(
    cpus_per_trial=0.5, gpus_per_trial=0, n_workers=1
)
ray_start.connect(sweep)
processes = ray._private.worker._global_node.all_processes
processes["VICTIM"][0].process.kill()
while True:
    time.sleep(0.5)
    try:
        ray_start.check_alive()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        ray.put(numpy.zeros(1_000_000))
        break
"""

# Ray has ended its core worker, and needs a second here until it forgets it. A reference becomes
# garbage in that second, and another thread makes enough garbage for Python to collect it.
GARBAGE = """
import gc, threading

class CoreWorker:
    def __init__(self, real):
        self.real, self.reference = real, ray.put(1)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def shutdown_driver(self):
        self.real.shutdown_driver()
        cycle = [self.__dict__.pop("reference")]
        cycle.append(cycle)
        del cycle
        time.sleep(1)

def litter():
    while True:
        garbage = []
        garbage.append(garbage)
        time.sleep(0.0005)

gc.set_threshold(100)
ray_start.start(sweep)
worker = ray._private.worker.global_worker
worker.core_worker = CoreWorker(worker.core_worker)
threading.Thread(target=litter, daemon=True).start()
ray_start.disconnect()
assert gc.isenabled()
print("ended in order", flush=True)
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START + script]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=380)


def test_one_whose_agents_start_slowly_starts(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS)
    ran = run(SLOWLY, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 0, ran.stderr


def test_its_end_is_not_the_drivers_when_garbage_is_collected():
    ran = run(GARBAGE)
    assert (ran.returncode, ran.stdout) == (0, "ended in order\n"), ran.stderr


@pytest.mark.parametrize(
    ("victim", "name"), [("raylet", "node manager"), ("gcs_server", "control store")]
)
def test_the_end_of_what_it_can_not_do_without_is_said(victim, name):
    ran = run(UNDER_ITS_DRIVER.replace("VICTIM", victim))
    said = f"Ray has ended: its {name} ({victim}) was killed by signal 9; its logs are in "
    assert said in ran.stderr  # before Ray could end this process
    assert f"RunFailed: {said}" in ran.stdout
    assert "continue with\n  thaw resume toy\n" in ran.stdout
