"""Submitted sweeps on a real cluster: one node of `ray start`, on loopback, that wants a token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import ROOT, TOY_SPACE
from ports import RAY_PORT_OPTIONS, free_ports

from tuning.clusters.dashboard import Dashboard
from tuning.clusters.supervisor import n_epochs
from tuning.clusters.watcher import VERSIONS_FILE
from tuning.record.events import read_history
from tuning.storage.driver_lock import HOLDER_FILE

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]
SCRIPTS = Path(sysconfig.get_path("scripts"))
TOY = ("--metric", "value:max", "--scheduler", "none", "--engine", "inprocess")


@dataclass
class Head:
    """A cluster's head, with a home folder of its own."""

    url: str
    home: Path
    logs: Path
    gcs_port: int
    environment: dict[str, str]

    @property
    def sweeps(self) -> Path:
        return self.home / "sweeps"

    @property
    def token_file(self) -> Path:
        return self.home / ".ray" / "auth_token"

    def dashboard(self) -> Dashboard:
        return Dashboard(self.url, self.token_file.read_text())


@pytest.fixture(scope="module")
def head(tmp_path_factory, empty_mlflow) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("head")
    temporary = Path(tempfile.mkdtemp(prefix="thaw-ray-", dir="/tmp"))  # sockets want short paths
    ports = free_ports(len(RAY_PORT_OPTIONS))
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (home / ".ray" / "auth_token").chmod(0o600)
    shutil.copy(empty_mlflow, home / "mlflow.db")
    environment = {
        **{n: v for n, v in os.environ.items() if not n.startswith(("RAY_", "THAW_", "MLFLOW_"))},
        "HOME": str(home),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_agent_register_timeout_ms": "120000",
        "THAW_CACHE": str(home / "cache"),
    }
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += ["--object-store-memory=100000000", f"--temp-dir={temporary}"]
    command += [f"{option}={port}" for option, port in zip(RAY_PORT_OPTIONS, ports, strict=True)]
    found = Head(
        f"http://127.0.0.1:{ports[1]}", home, temporary / "session_latest" / "logs", ports[0],
        environment,
    )  # fmt: skip
    log = home / "ray-start.log"
    for _ in range(3):  # on a busy machine Ray itself gives up, 30 s after its processes are there
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            if is_up(found, process):
                yield found
                return
        finally:
            end_all(process, home, temporary)
            shutil.rmtree(temporary, ignore_errors=True)
    raise AssertionError(log.read_text())


def is_up(head: Head, process: subprocess.Popen) -> bool:
    """Wait for a head; False if it gives up."""
    until = time.monotonic() + 180
    while time.monotonic() < until and process.poll() is None:
        with suppress(Exception):
            head.dashboard().files("*")  # the dashboard answers before there is a node
            return True
        time.sleep(0.5)
    return False


def end_all(process: subprocess.Popen, *folders: Path) -> None:
    """End the cluster's own processes: they are the ones that know one of its folders."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(3)
    words = [str(folder).encode() for folder in folders]
    while found := [
        pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if pid != os.getpid() and knows(pid, words)
    ]:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.2)


def knows(pid: int, words: list[bytes]) -> bool:
    with suppress(OSError):
        folder = Path(f"/proc/{pid}")
        known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        return is_alive(pid) and any(word in known for word in words)
    return False


@pytest.fixture
def cluster(head, thaw, monkeypatch, workplace) -> Callable[..., tuple[int, str, str]]:
    """Runs a command with the head's address, on a machine that has its token."""
    monkeypatch.setenv("HOME", str(workplace))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token_file))

    def run(*arguments: str) -> tuple[int, str, str]:
        return thaw(*arguments, "--address", head.url)

    return run


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def state(cluster, name: str) -> str:
    code, out, err = cluster("status", name, "--json")
    assert code == 0, err
    return json.loads(out)["state"]


def test_who_has_no_token_or_a_wrong_one_is_refused(head, cluster, monkeypatch, workplace):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(workplace / "none"))
    code, _, err = cluster("submit", "digits")
    assert code == 2
    assert f"neither in $RAY_AUTH_TOKEN nor in file '{workplace / 'none'}'" in err
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    code, _, err = cluster("submit", "digits")
    assert code == 2
    assert "refuses the token in $RAY_AUTH_TOKEN" in err
    assert head.dashboard().jobs() == []


MINE = """
from pathlib import Path
from helper import FACTOR
from search_spaces.domains import Float, SearchSpace
from trainables.task import EpochReport

SPACE = SearchSpace(
    name="mine",
    domains={"x": Float(0.0, 1.0)},
    fixed={"epochs": 2, "table": "data/t.txt"},
)


def train(config, run):
    table = float(Path(config["table"]).read_text())
    for epoch in range(1, config["epochs"] + 1):
        value = table * FACTOR * epoch - (config["x"] - 0.5) ** 2

        def save(folder):
            (folder / "state.txt").write_text(str(value))

        yield EpochReport(epoch, {"value": value}, save)
"""


def test_a_file_of_ones_own_runs_there_with_its_neighbours_and_data(head, cluster, workplace):
    """In the cluster's own Ray, whose workers get the files; followed to its end, and fetched."""
    (workplace / "mine.py").write_text(MINE)
    (workplace / "helper.py").write_text("FACTOR = 3.0")
    (workplace / "data").mkdir()
    (workplace / "data" / "t.txt").write_text("7")
    command = ["submit", "mine.py", "--metric", "value:max", "--trials", "2", "--name", "mine"]
    code, out, err = cluster(*command, "--follow", "--json")
    assert code == 0, out + err
    document = json.loads(out)
    assert document["state"] == "done"
    assert document["summary"]["trials"]["completed"] == 2
    assert 41.5 < document["summary"]["best"]["value"] <= 42.0
    assert document["summary"]["folder"] == str(head.sweeps / "mine")
    assert document["summary"]["mlflow"]["tracking_uri"] == f"sqlite:///{head.home / 'mlflow.db'}"
    assert "trial 1 completed after 2 epochs" in err
    assert head.token_file.read_text() not in out + err
    saved = json.loads((head.sweeps / "mine" / "sweep.json").read_text())
    assert (saved["engine"], saved["address"]) == ("ray", "auto")

    code, out, err = cluster("fetch", "mine", "--json")
    assert code == 0, err
    fetched = json.loads(out)
    assert Path(fetched["folder"]) == workplace / "sweeps" / "mine"
    best = fetched["summary"]["best"]
    assert float((Path(fetched["checkpoint"]) / "state.txt").read_text()) == best["value"]
    for file in ("mine.py", "study.journal", "events.jsonl", "summary.json"):
        assert (workplace / "sweeps" / "mine" / file).stat().st_size > 0


def test_the_token_is_in_no_log_no_job_and_no_command_line(head):
    token = head.token_file.read_bytes()
    for path in [*head.logs.rglob("*"), *(head.home / ".thaw").rglob("*")]:
        if path.is_file():
            assert token not in path.read_bytes(), path
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if token in line]
    for job in head.dashboard().json("/api/jobs/"):
        assert token.decode() not in json.dumps(job)


def test_what_was_fetched_predicts_here(head, cluster, thaw, workplace):
    settings = ["model=squeezenet1_1", "image_size=32", "epochs=1", "batch_size=128"]
    settings += ["freezing=head", "stem=standard"]
    command = ["submit", "digits", "--engine", "inprocess", "--trials", "1", "--name", "digits"]
    code, out, err = cluster(*command, *(part for s in settings for part in ("--set", s)))
    assert code == 0, err
    assert "submitted sweep digits" in out
    assert f"thaw logs digits --follow --address {head.url}" in out
    code, out, err = cluster("logs", "digits", "--follow")
    assert code == 0, err
    assert "supervisor: thaw sweep digits" in out
    assert "trial 0 completed" in out
    assert state(cluster, "digits") == "done"
    code, out, err = cluster("fetch", "digits", "--to", "here")
    assert code == 0, err
    assert "thaw best here" in out
    code, out, _ = thaw("best", "here", "--json")
    assert code == 0
    assert json.loads(out)["trial"] == 0
    assert len(json.loads(thaw("trials", "here", "--json")[1])) == 1

    from PIL import Image

    Image.new("L", (8, 8), 90).save("grey.png")
    code, out, err = thaw("predict", json.loads(out)["checkpoint"], "grey.png", "--json")
    assert code == 0, err
    code, _, err = cluster("fetch", "mine", "--to", "here")
    assert code == 0, err  # an earlier copy is replaced, even if it is another sweep's
    (workplace / "other").mkdir()
    code, _, err = cluster("fetch", "mine", "--to", "other")
    assert code == 2
    assert "exists, and is not a fetched sweep" in err


def test_a_sweep_is_stopped_in_order_and_continued(head, cluster):
    command = ["submit", TOY_SPACE, *TOY, "--trials", "3", "--set", "seconds=0.7", "--name", "s"]
    assert cluster(*command)[0] == 0
    folder = head.sweeps / "s"
    until(lambda: n_epochs(folder) >= 2, "two epochs")
    until(lambda: state(cluster, "s") == "running", "the job runs")
    code, out, _ = cluster("status", "s")
    assert "sweep s is running" in out
    code, out, err = cluster("submit", TOY_SPACE, *TOY, "--name", "s")
    assert code == 2
    assert "sweep s is running on this cluster already" in err
    code, out, err = cluster("stop", "s", "--json")
    assert code == 0, err
    assert json.loads(out)["state"] == "stopped"
    assert read_history(folder).ended_by == "interrupted"
    code, out, err = cluster("submit", "--resume", "s", "--trials", "2", "--follow", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["job"] == "s~2"
    assert document["summary"]["trials"]["completed"] == 2
    code, out, _ = cluster("logs", "s")
    assert out.index("supervisor: thaw sweep s") < out.index("supervisor: thaw resume s")
    code, out, _ = cluster("status", "--json")
    assert {row["sweep"]: row["state"] for row in json.loads(out)}["s"] == "done"


def test_it_survives_its_driver_and_its_job(head, cluster):
    """The driver is killed, then the actor that Ray's job consists of, and all below it."""
    command = ["submit", TOY_SPACE, *TOY, "--trials", "4", "--set", "seconds=0.7", "--name", "k"]
    assert cluster(*command)[0] == 0
    folder = head.sweeps / "k"
    until(lambda: n_epochs(folder) >= 2, "two epochs")
    kill(driver_of(folder))
    n_before = n_epochs(folder)
    until(lambda: n_epochs(folder) > n_before, "the driver goes on")
    supervisor = parent_of(driver_of(folder))
    actor = parent_of(supervisor)
    assert b"JobSupervisor" in Path(f"/proc/{actor}/cmdline").read_bytes()
    kill(actor)
    until(lambda: not Path(f"/proc/{supervisor}").exists(), "Ray kills the whole job")
    until(lambda: state(cluster, "k") == "done", "the sweep is done", 90)
    document = json.loads(cluster("status", "k", "--json")[1])
    assert (document["driver_restarts"], document["job_restarts"]) == (1, 1)
    assert document["job"] == "k~2"
    assert document["summary"]["trials"]["completed"] == 4
    trials = read_history(folder).trials.values()
    assert [sorted(trial.curve) for trial in trials] == [[1, 2, 3, 4]] * 4


def driver_of(folder: Path) -> int:
    until(lambda: (folder / HOLDER_FILE).exists(), "there is a driver")
    return int(json.loads((folder / HOLDER_FILE).read_text())["pid"])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), f"process {pid} is gone")


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_sweep_kept_at_a_uri_is_followed_and_fetched(head, cluster):
    """``file://`` is treated as an object store is: checkpoints are at the URI alone."""
    command = ["submit", TOY_SPACE, *TOY, "--trials", "2", "--name", "u"]
    home = f"file://{head.home}/kept"
    code, out, err = cluster(*command, "--sweeps-folder", home, "--follow", "--json")
    assert code == 0, err
    assert json.loads(out)["summary"]["folder"] == f"{home}/u"
    code, out, err = cluster("fetch", "u", "--json")
    assert code == 0, err
    checkpoint = Path(json.loads(out)["checkpoint"])
    assert json.loads((checkpoint / "state.json").read_text())["epoch"] == 4


def test_what_the_head_finds_wrong_is_told(cluster, workplace):
    (workplace / "mine.py").write_text(Path(TOY_SPACE).read_text() + "\nimport no_such_library\n")
    (workplace / "no_such_library.py").write_text("")
    command = ["submit", "mine.py", *TOY, "--warm-start", "nothing", "--name", "w", "--follow"]
    code, out, err = cluster(*command)
    assert code == 2
    assert "sweep w is wrong input" in out
    assert "unknown sweep 'nothing'; valid:" in out
    code, _, err = cluster("fetch", "w")
    assert code == 2
    assert "has not begun" in err


def test_another_version_on_the_cluster_is_told_before_anything_is_sent(head, cluster):
    """The head's own word for what it has, with another version in it."""
    shown = head.logs / VERSIONS_FILE
    versions = shown.read_text()
    n_jobs = len(head.dashboard().jobs())
    try:
        shown.write_text(json.dumps({**json.loads(versions), "python": "3.9.18"}))
        code, _, err = cluster("submit", "digits")
        assert code == 2
        here = ".".join(map(str, sys.version_info[:2]))
        assert f"python {here} here, 3.9 there; nothing was sent" in err
    finally:
        shown.write_text(versions)
    assert len(head.dashboard().jobs()) == n_jobs


def test_the_port_of_ray_itself_is_no_dashboard(head, cluster, thaw):
    code, _, err = thaw("submit", "digits", "--address", f"127.0.0.1:{head.gcs_port}")
    assert code == 2
    assert "its dashboard" in err.lower() or "does not speak HTTP" in err


def test_a_job_of_rays_own_command_runs_in_the_cluster(head):
    environment = {**head.environment, "RAY_ADDRESS": head.url}
    command = ["ray", "job", "submit", "--submission-id", "plain", "--"]
    command += ["thaw", "sweep", TOY_SPACE, *TOY, "--name", "plain", "--trials", "1"]
    result = subprocess.run(
        [*command, "--sweeps-folder", str(head.sweeps)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert read_history(head.sweeps / "plain").n_in_state["completed"] == 1
