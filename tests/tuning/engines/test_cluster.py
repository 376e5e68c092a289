"""Sweeps on clusters of several nodes, which come and go; all nodes share this machine's disk."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, SUPPORT

from tuning.record.events import read_events, read_history

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(400)]
THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")
GANG_SPACE = str(SUPPORT / "gang_space.py")


class Lab:
    """A cluster whose head runs no trial, and a sweep on it."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self._nodes: list[Any] = []
        self._sweep: subprocess.Popen[str] | None = None
        self.output = folder / "stderr"

    def announce(self, kind: str, cpus: int, max_count: int) -> None:
        """Say that an autoscaler may add such nodes, as some platforms do."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import ClusterConfig

        config = ClusterConfig()
        group = config.node_group_configs.add()
        group.name, group.max_count = kind, max_count
        group.resources["CPU"] = cpus
        client = GcsClient(address=self._cluster.address)
        client.report_cluster_config(config.SerializeToString())

    def add(self, cpus: int) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=cpus))

    def remove(self, node_number: float) -> None:
        """Kill a node, known by what the training reports of it."""
        (node,) = [n for n in self._nodes if int(n.node_id[:12], 16) == node_number]
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def start(self, *arguments: str) -> None:
        options = ["--metric", "value:max", "--scheduler", "none", "--searcher", "random"]
        options += ["--address", self._cluster.address, "--name", "s"]
        self._run("sweep", GANG_SPACE, *options, *arguments)

    def resume(self) -> None:
        self._run("resume", "s")

    def kill_driver(self) -> None:
        """End it without a word, and wait until none of its processes is left on any node."""
        assert self._sweep is not None
        self._sweep.kill()
        self._sweep.wait(30)
        deadline = time.monotonic() + 60
        while left := own_workers():
            assert time.monotonic() < deadline, left
            time.sleep(0.5)

    def _run(self, *arguments: str) -> None:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self.output.open("w") as errors:
            self._sweep = subprocess.Popen(
                [THAW, *arguments, "--json"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": paths},
            )

    def wait(self, condition: Callable[[], bool], seconds: float = 150) -> None:
        assert self._sweep is not None
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._sweep.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.2)

    @property
    def folder(self) -> Path:
        return self._folder / "sweeps" / "s"

    def epochs(self) -> list[dict[str, Any]]:
        if not (self.folder / "events.jsonl").exists():
            return []
        return [event for event in read_events(self.folder) if event["event"] == "epoch"]

    def finish(self) -> dict[str, Any]:
        assert self._sweep is not None
        output, _ = self._sweep.communicate(timeout=200)
        assert self._sweep.returncode == 0, self.output.read_text()
        return json.loads(output)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.kill()
        self._cluster.shutdown()


def own_workers() -> list[str]:
    """Processes that train, or help to, on the nodes that this process has started."""
    from processes import process_tree

    found = []
    for pid, _ in process_tree(os.getpid()):
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
        except OSError:
            continue
    # Each node has its agents, and a cluster one coordinator once Ray Train has run there.
    others = ("Agent", "IDLE", "AutoscalingCoordinator")
    ours = [title for title in found if title.startswith("ray::")]
    return [title for title in ours if not any(name in title for name in others)]


@pytest.fixture
def lab(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.syspath_prepend(f"{ROOT}/benchmarks")  # for its list of processes
    made = Lab(workplace)
    yield made
    made.close()


def nodes_of(events: list[dict[str, Any]]) -> set[float]:
    return {v for e in events for name, v in e["metrics"].items() if name.startswith("node")}


def test_a_sweep_waits_for_nodes_spreads_over_them_and_survives_one(lab):
    lab.announce("worker", cpus=1, max_count=2)
    lab.start("--trials", "3", "--set", "seconds=1.5", "--set", "epochs=8", "--set", "fault=no")
    lab.wait(lambda: "waiting for nodes" in lab.output.read_text())
    assert "there may be 1 × head with 0 CPUs, 2 × worker with 1 CPUs" in lab.output.read_text()
    lab.add(1)
    lab.add(1)
    lab.wait(lambda: len(nodes_of(lab.epochs())) == 2 and len(lab.epochs()) >= 5)
    gone = lab.epochs()[-1]["metrics"]["node0"]
    lab.remove(gone)
    assert lab.finish()["trials"]["completed"] == 3
    events = read_events(lab.folder)
    retried = {event["trial"] for event in events if event["event"] == "trial_retried"}
    assert retried
    for number in retried:
        curve = read_history(lab.folder).trials[number].curve
        assert sorted(curve) == list(range(1, 9))
        assert curve[8]["node0"] != gone
        assert curve[8]["resumed_from"] > 0


def test_gangs_span_nodes_and_go_on_elsewhere(lab):
    for _ in range(4):
        lab.add(1)
    lab.start(
        "--workers", "2", "--trials", "2", "--set", "seconds=1.5", "--set", "epochs=8",
        "--set", "fault=no",
    )  # fmt: skip
    lab.wait(lambda: len(nodes_of(lab.epochs())) == 4 and len(lab.epochs()) >= 5, seconds=200)
    assert "2 trials at once, each by 2 workers of 1 CPUs" in lab.output.read_text()
    event = lab.epochs()[-1]
    lab.remove(event["metrics"]["node1"])
    n_epochs = len(lab.epochs())
    lab.wait(lambda: len(lab.epochs()) > n_epochs + 3)  # three nodes are left, for one gang
    assert own_workers()
    lab.kill_driver()
    lab.resume()
    assert lab.finish()["trials"]["completed"] == 2
    curve = read_history(lab.folder).trials[event["trial"]].curve
    assert sorted(curve) == list(range(1, 9))
    assert event["metrics"]["node1"] not in nodes_of([{"metrics": curve[8]}])
    assert curve[8]["resumed_from"] > 0
