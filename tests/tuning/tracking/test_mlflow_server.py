"""The MLflow server of a cluster's head, really started, on loopback."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import ROOT
from ports import free_ports

pytestmark = pytest.mark.timeout(300)
SCRIPT = ROOT / "clusters" / "mlflow_server.py"


@dataclass(frozen=True)
class Server:
    home: Path
    url: str
    port: int

    def say(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SCRIPT), *command],
            env={**os.environ, "HOME": str(self.home), "THAW_HOME": str(self.home), **environment},
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip

    def start(self) -> subprocess.CompletedProcess[str]:
        return self.say("start", "--host", "127.0.0.1", "--port", str(self.port), "--keep")

    def login(self) -> tuple[str, str]:
        lines = (self.home / "cluster.env").read_text().splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return values["MLFLOW_TRACKING_USERNAME"], values["MLFLOW_TRACKING_PASSWORD"]

    def post(self, path: str, body: dict, login: tuple[str, str] | None, host: str = "") -> int:
        """The status of the answer."""
        headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
        if login is not None:
            headers["Authorization"] = (
                "Basic " + base64.b64encode(":".join(login).encode()).decode()
            )
        url = f"{self.url}/api/2.0/mlflow/{path}"
        try:
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def processes(self) -> dict[int, str]:
        """What runs of it: process id -> command line, the keeper first."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                variables = (path / "environ").read_bytes()
            except OSError:
                continue
            if f"THAW_HOME={self.home}".encode() in variables.split(b"\0"):
                found[int(path.name)] = line
        return dict(sorted(found.items()))


@pytest.fixture(scope="module")
def one_mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    (port,) = free_ports(1)
    server = Server(tmp_path_factory.mktemp("head"), f"http://127.0.0.1:{port}", port)
    assert server.start().returncode == 0
    waited = server.say("wait")
    assert waited.returncode == 0, waited.stderr
    yield server
    server.say("stop")
    assert not server.processes()


@pytest.fixture
def server(one_mlflow_server: Server) -> Server:
    return one_mlflow_server


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def test_nobody_gets_in_without_the_password(server):
    assert server.post("experiments/search", {"max_results": 1}, None) == 401
    assert server.post("experiments/search", {"max_results": 1}, ("thaw", "guess")) == 401
    assert server.post("experiments/search", {"max_results": 1}, server.login()) == 200


def test_the_nodes_user_writes_but_is_no_administrator(server):
    assert server.post("experiments/create", {"name": "mine"}, server.login()) == 200
    account = {"username": "friend", "password": "long-enough-password"}
    assert server.post("users/create", account, server.login()) == 403


def test_requests_by_another_host_name_are_refused(server):
    """A page in a browser can not reach it by a name of its own (DNS rebinding)."""
    body = {"max_results": 1}
    assert server.post("experiments/search", body, server.login(), "evil.example") == 403


def test_secrets_are_in_private_files_and_on_no_command_line(server):
    secrets = [
        path.read_text() for path in (server.home / "mlflow").iterdir()
        if path.name in ("password", "admin_password", "flask_secret_key")
    ]  # fmt: skip
    assert len(secrets) == 3
    assert (server.home / "mlflow").stat().st_mode & 0o777 == 0o700
    for path in [server.home / "cluster.env", *(server.home / "mlflow").glob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    processes = server.processes()
    assert len(processes) >= 2
    log = (server.home / "mlflow" / "server.log").read_text()
    for secret in secrets:
        assert not any(secret in line for line in processes.values())
        assert secret not in log


def test_a_second_start_leaves_it_alone(server):
    before = server.processes()
    again = server.start()
    assert again.returncode == 0
    assert "already" in again.stdout
    assert server.processes() == before


def test_artifacts_go_through_the_server(server, tmp_path):
    """A worker shares no disk with the head."""
    user, password = server.login()
    program = (
        "import mlflow, pathlib; mlflow.set_experiment('artifacts')\n"
        "with mlflow.start_run() as run:\n"
        "    mlflow.log_text('hello', 'greeting.txt')\n"
        "uri = run.info.artifact_uri\n"
        "print(uri, mlflow.artifacts.load_text(uri + '/greeting.txt'))"
    )
    variables = {
        "MLFLOW_TRACKING_URI": server.url, "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password, "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("mlflow-artifacts:/")
    assert result.stdout.split()[-1] == "hello"
    assert list((server.home / "mlflow" / "artifacts").rglob("greeting.txt"))


def test_it_is_started_again_when_it_dies(server):
    keeper, *others = server.processes()
    os.kill(others[0], signal.SIGKILL)  # `mlflow server`: its own servers are left on the port
    ready = server.home / "mlflow" / "ready"
    assert eventually(lambda: not ready.exists(), 30)
    assert server.say("wait").returncode == 0
    assert next(iter(server.processes())) == keeper
    assert others[0] not in server.processes()
    assert server.post("experiments/search", {"max_results": 1}, server.login()) == 200


def test_a_server_whose_keeper_was_killed_is_replaced(server):
    keeper, *others = server.processes()
    os.kill(keeper, signal.SIGKILL)
    assert others[0] in server.processes()
    assert server.start().returncode == 0
    assert server.say("wait").returncode == 0
    assert not {keeper, *others} & server.processes().keys()
    assert server.post("experiments/search", {"max_results": 1}, server.login()) == 200


def test_a_password_in_the_store_is_refused(tmp_path):
    server = Server(tmp_path, "", 1)
    result = server.say("start", "--store", "postgresql://me:secret@db/mlflow")
    assert result.returncode == 1
    assert ".pgpass" in result.stderr
    assert not server.processes()


@pytest.mark.parametrize("file", ["cluster.yaml", "clusters/local.yaml"])
def test_it_knows_the_head_that_a_cluster_file_starts(file):
    root = SCRIPT.parent.parent
    (start,) = [
        line for line in (root / file).read_text().split("\n") if "ray start --head" in line
    ]
    (port,) = re.findall(r"--port=(\d+)", start)
    assert f'RAY_HEAD = b"--gcs_server_port={port}"' in SCRIPT.read_text()


@pytest.mark.long
def test_it_ends_with_ray(tmp_path, free_port):
    """`ray down` leaves nothing on machines that one has."""
    gcs = tmp_path / "gcs_server"  # as the process of Ray is named that the head has
    gcs.symlink_to(Path(sys.executable).resolve())
    ray = subprocess.Popen([gcs, "-c", "import time; time.sleep(300)", "--gcs_server_port=6379"])
    try:
        server = Server(tmp_path, f"http://127.0.0.1:{free_port}", free_port)
        options = ("--host", "127.0.0.1", "--port", str(free_port))
        assert server.say("start", *options, THAW_SECONDS_WITHOUT_RAY="3").returncode == 0
        assert not eventually(lambda: not server.processes(), 12)
    finally:
        ray.kill()
        ray.wait()
    assert eventually(lambda: not server.processes(), 30)
    assert server.say("wait").returncode == 1
