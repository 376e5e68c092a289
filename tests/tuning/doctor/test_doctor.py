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

from tuning.clusters.node_probe import listening_sockets
from tuning.clusters.node_verdicts import judge
from tuning.doctor.auth_token import make_token
from tuning.doctor.findings import is_well
from tuning.doctor.machine import storage_error
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


def node(**changes) -> dict:
    """What a node says when all is well there."""
    well = {
        "address": "10.0.0.2", "host": "w", "versions": installed_versions(), "n_cpus": 2,
        "gpus_of_ray": 1.0, "gpus_of_driver": 1, "gpus_of_torch": 1, "storage": None,
        "free_bytes": {"the cache": ["/c", 10**12]}, "refuses_without_token": True,
        "listening": [], "mlflow": [{"check": "MLflow", "state": "ok", "what": "w", "mend": "",
                                     "node": None}],
        "clock_ahead_seconds": 0.1, "clock_error_seconds": 0.01,
    }  # fmt: skip
    return {**well, **changes}


def judged(*nodes: dict) -> list:
    return list(judge({"head_ip": "10.0.0.1", "mlflow": "http://10.0.0.1:5000", "nodes": nodes}))


def test_a_node_that_is_well_is_found_so():
    findings = judged(node(), node(address="10.0.0.1"))
    assert {finding.state for finding in findings} == {"ok"}
    assert {f.check for f in findings} == {"versions", "GPUs", "clock", "disk", "token", "MLflow"}


@pytest.mark.parametrize(
    ("changes", "check", "state"),
    [
        ({"versions": {**installed_versions(), "ray": "2.0"}}, "versions", "wrong"),
        ({"versions": {**installed_versions(), "python": "3.9.1"}}, "versions", "wrong"),
        ({"versions": {**installed_versions(), "code": "0"}}, "versions", "warning"),
        ({"versions": {**installed_versions(), "torch": "1.0"}}, "versions", "warning"),
        ({"gpus_of_torch": 0}, "GPUs", "wrong"),
        ({"gpus_of_ray": 0.0}, "GPUs", "wrong"),
        ({"clock_ahead_seconds": -3.0}, "clock", "warning"),
        ({"clock_ahead_seconds": 60.0}, "clock", "wrong"),
        ({"clock_ahead_seconds": 60.0, "clock_error_seconds": 70.0}, "clock", "ok"),
        ({"free_bytes": {"Ray": ["/tmp", 10**6]}}, "disk", "wrong"),
        ({"free_bytes": {"Ray": ["/tmp", 5 * 10**9]}}, "disk", "warning"),
        ({"refuses_without_token": False}, "token", "wrong"),
        ({"mlflow": []}, "MLflow", "warning"),
        ({"storage": {"error": "AccessDenied: no"}}, "storage", "wrong"),
        ({"storage": {"error": None}}, "storage", "ok"),
        ({"error": "it is lost"}, "nodes", "wrong"),
    ],
    ids=str,
)
def test_what_is_wrong_on_a_node_is_found(changes, check, state):
    found = [finding for finding in judged(node(**changes)) if finding.check == check]
    assert [finding.state for finding in found] == [state]
    assert found[0].node == "10.0.0.2"
    assert found[0].mend or state == "ok"


def test_python_may_differ_in_its_last_number():
    ours = installed_versions()
    theirs = {**ours, "python": ours["python"].rpartition(".")[0] + ".99"}
    assert is_well(judged(node(versions=theirs)))


@pytest.mark.parametrize(
    ("listening", "state"),
    [
        ([("127.0.0.1", 8265), ("10.0.0.1", 5000)], {"ok"}),
        ([("0.0.0.0", 8265), ("10.0.0.1", 5000)], {"ok", "warning"}),
        ([("127.0.0.1", 8265), ("::", 5000)], {"ok", "warning"}),
    ],
)
def test_doors_of_the_head_that_are_open_too_wide_are_found(listening, state):
    findings = judged(node(address="10.0.0.1", listening=listening))
    assert {f.state for f in findings if f.check == "ports"} == state


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
    assert storage_error(str(tmp_path / "new" / "folder")) is None
    assert storage_error(f"file://{tmp_path}/other") is None
    assert not list((tmp_path / "other").iterdir())
    (tmp_path / "file").touch()
    assert "Not a directory" in str(storage_error(str(tmp_path / "file" / "folder")))
    assert "ftp" in str(storage_error("ftp://host/folder"))


@contextmanager
def ray_head(folder: Path, **environment: str) -> Iterator[str]:
    """A real Ray on loopback, of its own ports; its dashboard's address.

    On a busy machine a head may find no time to start within Ray's own minute, and is tried again.
    """
    for attempt in range(3):
        ports = dict(zip(RAY_PORT_OPTIONS, free_ports(len(RAY_PORT_OPTIONS)), strict=True))
        temporary = str(folder / str(attempt))
        process = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1",
                "--dashboard-host=127.0.0.1", f"--temp-dir={temporary}",
                "--disable-usage-stats", *(f"{option}={port}" for option, port in ports.items()),
            ],
            env={
                **os.environ,
                "RAY_TMPDIR": temporary,  # where the address is left, which `ray stop` would remove
                "RAY_agent_register_timeout_ms": "120000",
                **environment,
            },
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
