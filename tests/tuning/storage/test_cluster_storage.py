"""Nodes that share no disk with the driver: a real Ray whose nodes do not see its folders.

Each node's processes live in a mount namespace of their own, in which empty disks lie over the
sweeps' folder and the user's files. Nothing of Thaw knows of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuning.record.events import read_history

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(420)]
THAW = str(Path(sysconfig.get_path("scripts")) / "thaw")

CLUSTER = """
import json, sys
from ray._private import services
from ray.cluster_utils import Cluster

start = services.start_ray_process
hide = "; ".join(f"mount -t tmpfs tmpfs '{folder}'" for folder in sys.argv[1:])

def start_apart(command, *arguments, **options):
    prefix = ["unshare", "-m", "sh", "-c", f'set -e; {hide}; exec "$@"', "sh"]
    return start([*prefix, *command], *arguments, **options)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
services.start_ray_process = start_apart
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
services.start_ray_process = start
cluster.wait_for_nodes()
pids = [node.all_processes["raylet"][0].process.pid for node in nodes]
print(json.dumps({"address": cluster.address, "raylets": pids}), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()  # which deletes the address that it left for a plain `ray.init()`
"""

TRAINING = """
import json
import os
import time
from pathlib import Path

from search_spaces.domains import Choice, SearchSpace
from trainables.task import EpochReport

import helping

SPACE = SearchSpace(
    name="apart", domains={"x": Choice(0, 1)}, fixed={"folder": "", "epochs": 8, "seconds": 1.5}
)


def train(config, run):
    done = 0
    if run.resume_from is not None:
        assert len((run.resume_from / "weights").read_bytes()) == helping.N_BYTES
        done = json.loads((run.resume_from / "state.json").read_text())["epoch"]
    for epoch in range(done + 1, config["epochs"] + 1):
        time.sleep(config["seconds"])

        def save(folder, epoch=epoch):
            (folder / "weights").write_bytes(os.urandom(helping.N_BYTES))
            (folder / "state.json").write_text(json.dumps({"epoch": epoch}))

        sees = (Path(config["folder"]) / "driver.json").exists()
        metrics = {"value": float(epoch + config["x"]), "began_after": float(done)}
        metrics |= {"raylet": float(os.getppid()), "sees": float(sees)}
        yield EpochReport(epoch, metrics, save)
"""


def can_unshare() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


class Apart:
    """A head without CPUs, where the driver runs, and two nodes that see none of its folders."""

    def __init__(self, folder: Path) -> None:
        self.sweeps, self.mine = folder / "sweeps", folder / "mine"
        self.sweeps.mkdir()
        self.mine.mkdir()
        (self.mine / "apart.py").write_text(TRAINING)
        (self.mine / "helping.py").write_text("N_BYTES = 20_000_000\n")
        rows = [f"text {i} of {i % 2},{i % 2}" for i in range(60)]
        (self.mine / "data.csv").write_text("\n".join(["text,label", *rows]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(self.sweeps), str(self.mine)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
        )
        known = json.loads(self._line())
        self.address, self.raylets = known["address"], known["raylets"]

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def remove(self, node: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{node}\n")
        self._process.stdin.flush()
        assert self._line() == "removed\n"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


@pytest.fixture
def apart(workplace: Path) -> Iterator[Apart]:
    if not can_unshare():
        pytest.skip("only root can hide folders from a node")
    cluster = Apart(workplace)
    yield cluster
    cluster.close()


def thaw(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [THAW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition, process: subprocess.Popen[str], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, (process.kill(), process.communicate())
        time.sleep(0.2)


def test_trials_on_nodes_that_share_nothing(apart):
    # Data that only the driver has: told before anything starts.
    data = str(apart.mine / "data.csv")
    settings = ("--set", f"data={data}", "--set", "model=scratch:bert-mini", "--name", "texts")
    there = ("--address", apart.address, "--sweeps-folder", str(apart.sweeps))
    process = thaw("sweep", "text_csv", *settings, *there, "--trials", "2")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2, err
    for part in ("node ", data, "copy or mount it there"):
        assert part in err
    assert not (apart.sweeps / "texts" / "events.jsonl").exists()

    # A node is lost in the middle: its trial goes on at the other, from what came through Ray.
    folder = apart.sweeps / "s"
    options = ("--metric", "value:max", "--name", "s", "--scheduler", "none", "--trials", "2")
    own = str(apart.mine / "apart.py")
    process = thaw("sweep", own, *options, *there, "--set", f"folder={folder}", "--json")

    def both_have_begun() -> bool:
        trials = read_history(folder).trials
        return len(trials) == 2 and all(len(trial.curve) >= 2 for trial in trials.values())

    wait_until(both_have_begun, process)
    trials = read_history(folder).trials
    lost = {int(trial.curve[1]["raylet"]): number for number, trial in trials.items()}
    assert set(lost) == set(apart.raylets), "one trial on each node"
    apart.remove(0)
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["trials"]["completed"] == 2
    assert "checkpoints come through Ray to this machine's" in err
    assert "from 2 of 2 nodes" in err
    history = read_history(folder)
    moved = history.trials[lost[apart.raylets[0]]]
    assert sorted(moved.curve) == list(range(1, 9))
    assert {int(m["raylet"]) for m in moved.curve.values()} == set(apart.raylets)
    assert max(metrics["began_after"] for metrics in moved.curve.values()) >= 2
    seen = {m["sees"] for trial in history.trials.values() for m in trial.curve.values()}
    assert seen == {0.0}, "no trial ever saw the driver's folder"
    best = Path(summary["best"]["checkpoint"])
    assert best.is_relative_to(folder)
    assert (best / "weights").stat().st_size == 20_000_000
    assert not list(folder.glob("trials/*/last")) + list(folder.glob("trials/*/.*"))

    # The winner is retrained on a node that does not share the folder either.
    process = thaw("retrain", "s", "--sweeps-folder", str(apart.sweeps), "--json")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["seeds"][0]["value"] == history.trials[document["trial"]].curve[8]["value"]
    assert (Path(document["checkpoint"]) / "weights").stat().st_size == 20_000_000
