"""`thaw doctor`: on this machine, on a real Ray with and without a token, and on what nodes say."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ports import RAY_PORT_OPTIONS, free_ports

from tuning.clusters.cluster_doctor import judge
from tuning.clusters.node_probe import (
    agent_finding,
    clock_finding,
    door_findings,
    listening_sockets,
    mlflow_findings,
)
from tuning.doctor import machine
from tuning.doctor.auth_token import make_token
from tuning.doctor.findings import Finding
from tuning.doctor.machine import disk_finding, gpu_finding, storage_finding
from tuning.user_code.versions import installed_versions

RAY = str(Path(sysconfig.get_path("scripts")) / "ray")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def states(document: dict, check: str) -> set[str]:
    return {each["state"] for each in document["findings"] if each["check"] == check}


def test_this_machine_is_well(thaw, home):
    code, out, _ = thaw("doctor", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["well"] is True
    checks = {each["check"] for each in document["findings"]}
    assert checks == {"versions", "processors", "GPUs", "disk", "cache", "MLflow", "token"}
    assert states(document, "token") == {"warning"}  # there is none, and only `ray up` needs it
    assert all(each["mend"] for each in document["findings"] if each["state"] != "ok")


def test_mend_makes_a_token_that_nobody_else_ever_could_read(thaw, home):
    before = os.umask(0)
    try:
        code, out, _ = thaw("doctor", "--mend")
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert code == 0
    assert "was made" in out
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.parent.stat().st_mode & 0o777 == 0o700
    value = token.read_text()
    assert len(value) == 64
    assert value not in out
    assert thaw("doctor", "--mend")[0] == 0
    assert token.read_text() == value


def test_a_token_that_others_can_read_is_wrong_and_mended(thaw, home):
    make_token()
    (home / ".ray" / "auth_token").chmod(0o644)
    code, out, _ = thaw("doctor")
    assert code == 1
    assert "can be read by others" in out
    assert "mend: thaw doctor --mend" in out
    assert thaw("doctor", "--mend")[0] == 0
    assert thaw("doctor")[0] == 0


def test_what_is_wrong_here_is_found(thaw, home, free_port, monkeypatch, tmp_path):
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").touch()
    monkeypatch.setattr("tuning.doctor.machine.free_bytes", lambda folder: 10)
    monkeypatch.setattr(
        "tuning.doctor.machine._unmet_requirements", lambda: iter(["ray is 1, must be 2"])
    )
    uri = f"http://127.0.0.1:{free_port}"
    code, out, _ = thaw("doctor", "--json", "--tracking-uri", uri)
    document = json.loads(out)
    assert code == 1
    for check in ("versions", "disk", "cache", "MLflow"):
        assert "wrong" in states(document, check), check


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cluster", "c.yaml", "--address", "http://h:1"),
        ("--cluster", "none.yaml"),
        ("--address", "ftp://h"),
        ("--mend", "--address", "http://h:1"),
    ],
    ids=str,
)
def test_wrong_input_is_told_from_what_is_wrong(thaw, home, arguments):
    code, _, err = thaw("doctor", *arguments)
    assert code == 2
    assert err.startswith("error: ")


def test_nobody_at_the_address_is_a_failure(thaw, home, free_port):
    code, _, err = thaw("doctor", "--address", f"http://127.0.0.1:{free_port}")
    assert code == 1
    assert "nobody answers at" in err


def test_a_sweeps_folder_that_is_a_uri_is_tried(thaw, home, tmp_path):
    code, out, _ = thaw("doctor", "--json", "--sweeps-folder", f"file://{tmp_path}/sweeps")
    assert (code, states(json.loads(out), "storage")) == (0, {"ok"})
    code, out, _ = thaw("doctor", "--json", "--sweeps-folder", "ftp://host/sweeps")
    assert (code, states(json.loads(out), "storage")) == (1, {"wrong"})


OURS = installed_versions()


def judged(**changes) -> list[Finding]:
    """What is made of what a node says."""
    disk = {"check": "disk", "state": "ok", "what": "1 TB free", "mend": "", "node": None}
    return list(judge({"address": "10.0.0.2", "versions": OURS, "findings": [disk], **changes}))


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({}, "versions", "ok"),
        ({"versions": {**OURS, "ray": "2.0"}}, "versions", "wrong"),
        ({"versions": {**OURS, "python": "3.9.1"}}, "versions", "wrong"),
        ({"versions": {**OURS, "code": "0"}}, "versions", "warning"),
        ({"versions": {**OURS, "torch": "1.0"}}, "versions", "warning"),
        ({"error": "it is lost"}, "nodes", "wrong"),
    ],
    ids=str,
)
def test_what_nodes_say_is_judged(changes, check, state):
    found, *more = judged(**changes)
    assert (found.check, found.state) == (check, state)
    assert found.mend or state == "ok"
    assert [each.check for each in more] == ([] if "error" in changes else ["disk"])


def test_python_may_differ_in_its_last_number():
    theirs = {**OURS, "python": OURS["python"].rpartition(".")[0] + ".99"}
    assert {finding.state for finding in judged(versions=theirs)} == {"ok"}


@pytest.mark.parametrize(
    ("finding", "state"),
    [
        (clock_finding(0.1, 0.01), "ok"),
        (clock_finding(-3.0, 0.01), "warning"),
        (clock_finding(60.0, 0.01), "wrong"),
        (clock_finding(60.0, 70.0), "ok"),
        (agent_finding(True), "ok"),
        (agent_finding(None), "ok"),
        (agent_finding(False), "wrong"),
        (*mlflow_findings(None), "warning"),
    ],
    ids=str,
)
def test_what_is_wrong_on_a_node_is_found(finding, state):
    assert finding.state == state
    assert finding.mend or state == "ok"


@pytest.mark.parametrize(
    ("of_driver", "of_torch", "of_ray", "state"),
    [(0, 0, None, "ok"), (1, 1, 1.0, "ok"), (1, 0, 1.0, "wrong"), (1, 1, 0.0, "wrong")],
)
def test_gpus_that_can_not_be_used_are_found(monkeypatch, of_driver, of_torch, of_ray, state):
    monkeypatch.setattr(machine, "_driver_gpus", lambda: of_driver)
    monkeypatch.setattr(machine, "_torch_gpus", lambda: of_torch)
    assert gpu_finding(of_ray).state == state


@pytest.mark.parametrize(
    ("n_bytes", "state"), [(10**6, "wrong"), (5 * 10**9, "warning"), (10**12, "ok")]
)
def test_a_disk_that_is_full_is_found(monkeypatch, n_bytes, state):
    monkeypatch.setattr(machine, "free_bytes", lambda folder: n_bytes)
    assert disk_finding("Ray", Path("/tmp")).state == state


@pytest.mark.parametrize(
    ("listening", "states"),
    [
        ([("127.0.0.1", 8265), ("10.0.0.1", 5000)], ["ok", "ok"]),
        ([("0.0.0.0", 8265), ("10.0.0.1", 5000)], ["warning", "ok"]),
        ([("127.0.0.1", 8265), ("::", 5000)], ["ok", "warning"]),
        ([("127.0.0.1", 22)], []),
    ],
)
def test_doors_of_the_head_that_are_open_too_wide_are_found(listening, states):
    found = door_findings("http://10.0.0.1:5000", listening)
    assert [finding.state for finding in found] == states


def test_sockets_that_listen_are_seen():
    with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
        for each, address in ((four, "127.0.0.1"), (six, "::1")):
            try:
                each.bind((address, 0))
            except OSError:
                continue  # a machine without IPv6
            each.listen()
            assert (address, each.getsockname()[1]) in listening_sockets()


def test_storage_is_tried(tmp_path):
    assert storage_finding(str(tmp_path / "new" / "folder")).state == "ok"
    assert storage_finding(f"file://{tmp_path}/other").state == "ok"
    assert not list((tmp_path / "other").iterdir())
    (tmp_path / "file").touch()
    assert "Not a directory" in storage_finding(str(tmp_path / "file" / "folder")).what
    assert "ftp" in storage_finding("ftp://host/folder").what


@contextmanager
def ray_head(folder: Path, **environment: str) -> Iterator[str]:
    """A real Ray on loopback, of its own ports; its dashboard's address.

    On a busy machine a head may find no time to start within Ray's own minute, and is tried again.
    """
    for attempt in range(3):
        ports = dict(zip(RAY_PORT_OPTIONS, free_ports(len(RAY_PORT_OPTIONS)), strict=True))
        process = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1",
                "--dashboard-host=127.0.0.1", f"--temp-dir={folder / str(attempt)}",
                "--disable-usage-stats", *(f"{option}={port}" for option, port in ports.items()),
            ],
            env={**os.environ, "RAY_agent_register_timeout_ms": "120000", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        said: list[str] = []
        try:
            if _has_started(process, said):
                yield f"http://127.0.0.1:{ports['--dashboard-port']}"
                return
        finally:
            process.send_signal(signal.SIGTERM)  # --block ends all that it has started
            try:
                process.wait(60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("".join(said))


def _has_started(process: subprocess.Popen, said: list[str]) -> bool:
    """Wait for a head; False if it gives up. What it says is added to ``said``."""
    threading.Thread(target=lambda: said.extend(process.stdout), daemon=True).start()
    until = time.monotonic() + 120
    while not any("Ray runtime started" in line for line in said):
        assert time.monotonic() < until, "".join(said)
        if process.poll() is not None:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture
def short_tmp(tmp_path_factory) -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie below it, and their paths may be 107 long."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_cluster_with_a_token_is_well_and_refuses_others(thaw, home, short_tmp, monkeypatch):
    make_token()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with ray_head(short_tmp, RAY_AUTH_MODE="token") as url:
        code, out, err = thaw("doctor", "--address", url, "--sweeps-folder", str(home), "--json")
        document = json.loads(out)
        assert code == 0, (document, err)
        assert states(document, "token") == {"ok"}
        assert sum(each["check"] == "token" for each in document["findings"]) == 3  # and the agent
        for check in ("versions", "clock", "storage"):
            assert states(document, check) == {"ok"}, check
        assert states(document, "MLflow") == {"warning"}  # trials there would not find one
        monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
        code, out, _ = thaw("doctor", "--address", url)
        assert code == 1
        assert "this machine's token is another cluster's" in out
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        (home / ".ray" / "auth_token").unlink()
        code, out, _ = thaw("doctor", "--address", url)
        assert code == 1
        assert "this machine has no token" in out


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_cluster_without_a_token_is_found_to_be_open(thaw, home, short_tmp, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with ray_head(short_tmp, RAY_AUTH_MODE="disabled") as url:
        code, out, _err = thaw("doctor", "--address", url, "--json")
        document = json.loads(out)
        assert code == 1
        wrong = [each for each in document["findings"] if each["state"] == "wrong"]
        assert {each["check"] for each in wrong} == {"token"}
        assert len(wrong) == 3  # without, with a wrong one, and the agent
        assert all("RAY_AUTH_MODE=token" in each["mend"] for each in wrong)
