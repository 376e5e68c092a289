"""clusters/local.yaml and the scripts that it mounts: what Ray will do with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from trainables.errors import InputError
from tuning.clusters.cluster_file import head_address, read_cluster_file, ssh_key

CLUSTERS = ROOT / "clusters"
LOCAL = CLUSTERS / "local.yaml"
SCRIPTS = sorted([*CLUSTERS.glob("*.sh"), *(ROOT / "tests" / "lab").glob("*.sh")])


@pytest.fixture(scope="module")
def prepared() -> dict:
    """The file as Ray sees it, once it has found nothing wrong with it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(LOCAL.read_text()))
    validate_config(config)
    return config


def test_ray_takes_the_file_and_brings_all_machines_up(prepared):
    node_type = prepared["available_node_types"][prepared["head_node_type"]]
    assert prepared["max_workers"] == node_type["min_workers"] == node_type["max_workers"] == 2
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] != []


def test_what_is_mounted_is_there_and_small(prepared):
    """Ray does not say so before it has begun, and reads all of it at every `ray up`."""
    mounts = {there: here for there, here in prepared["file_mounts"].items() if "~" not in here}
    assert len(mounts) == 7
    for here in mounts.values():
        assert (ROOT / here).exists(), here
        files = [
            p for p in (ROOT / here).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        ]
        assert sum(path.stat().st_size for path in files) < 2_000_000, here
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_each_start_of_ray_has_the_environment_in_its_line(prepared):
    commands = prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        before, _, _ = command.partition("ray start")
        # Without ; or ||: where the environment fails, Ray does not start at all.
        assert before.startswith(". ~/thaw/clusters/node_env.sh && ")
        assert ";" not in before
        assert "||" not in before
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "RAY_enable_autoscaler_v2=0" in starts[0]
    assert commands.index(starts[0]) < next(
        n for n, command in enumerate(commands) if "tuning.clusters.supervise prepare" in command
    )


def test_the_environment_turns_authentication_on_and_finds_mlflow(tmp_path):
    (tmp_path / ".thaw").mkdir()
    (tmp_path / ".thaw" / "cluster.env").write_text(
        "THAW_HEAD_IP=10.0.0.1\nMLFLOW_TRACKING_URI=u\n"
    )
    program = f". {CLUSTERS}/node_env.sh && env"
    result = subprocess.run(
        ["bash", "-euc", program],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["THAW_HEAD_IP"] == "10.0.0.1"
    assert found["MLFLOW_TRACKING_URI"] == "u"
    assert found["PATH"].startswith(f"{tmp_path}/.thaw/venv/bin:")
    assert "OMP_NUM_THREADS" not in found
    preloads = "RAY_preload_python_modules" in found
    assert preloads is False or (os.cpu_count() or 1) >= 8


def test_the_pinned_ray_is_the_one_that_runs_here():
    """So that `uv sync` on a node and on one's own machine come to the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["constraint-dependencies"] == [f"ray=={version('ray')}"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_parsed(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=20)
    if shutil.which("shellcheck") is not None:
        subprocess.run(
            ["shellcheck", "--shell=bash", "--exclude=SC1090,SC1091", script],
            check=True, timeout=60,
        )  # fmt: skip


def test_there_are_scripts():
    assert [path.name for path in SCRIPTS] == ["node_env.sh", "set_up_node.sh", "host_init.sh"]


def test_set_up_writes_one_line_into_bashrc_and_skips_what_is_done(tmp_path):
    """With a uv that only says how it was called."""
    home, project = tmp_path / "home", tmp_path / "thaw"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("secret")
    (home / ".ray" / "auth_token").chmod(0o644)
    for name in ("clusters", "search_spaces", "trainables", "tuning"):
        (project / name).mkdir(parents=True)
    shutil.copy(CLUSTERS / "set_up_node.sh", project / "clusters")
    (project / "pyproject.toml").write_text("")
    (project / "tuning" / "code.py").write_text("A = 1\n")
    uv = home / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text('#!/bin/sh\nmkdir -p "$UV_PROJECT_ENVIRONMENT"\necho "$@" >> ~/calls\n')
    uv.chmod(0o755)

    def set_up() -> str:
        return subprocess.run(
            ["bash", str(project / "clusters" / "set_up_node.sh"), "3.11"],
            env={"HOME": str(home), "PATH": f"{uv.parent}:/usr/bin:/bin"},
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout  # fmt: skip

    def syncs() -> int:
        return (home / "calls").read_text().count("sync ")

    set_up()
    assert syncs() == 1
    assert "--python 3.11" in (home / "calls").read_text()
    assert "nothing has changed" in set_up()
    assert syncs() == 1
    (project / "tuning" / "code.py").write_text("A = 2\n")
    set_up()
    assert syncs() == 2
    assert (home / ".bashrc").read_text().count("node_env.sh") == 1
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_cluster_file_is_read(tmp_path):
    key = tmp_path / "key"
    key.touch()
    text = re.sub(r"ssh_private_key: \S+", f"ssh_private_key: {key}", LOCAL.read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    found = read_cluster_file(path)
    assert (found.name, found.n_nodes, found.is_local) == ("thaw", 3, True)
    assert head_address(found) == "192.168.1.10"
    assert ssh_key(found) == key
    path.write_text(text.replace("# external_head_ip", "external_head_ip"))
    assert head_address(read_cluster_file(path)) == "203.0.113.7"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("cluster_name: thaw", ""), "cluster_name"),
        (lambda text: text + "\nmisspelt: 1\n", "misspelt"),
        (lambda text: text.replace("    ssh_user", "    # ssh_user"), "ssh_user"),
        (lambda text: text.replace("head_ip: 192.168.1.10", ""), "head_ip"),
        (lambda text: text + "\n}", "can not be read"),
    ],
)
def test_a_wrong_cluster_file_is_an_input_error(tmp_path, change, reason):
    path = tmp_path / "mine.yaml"
    path.write_text(change(LOCAL.read_text()))
    with pytest.raises(InputError, match=reason):
        read_cluster_file(path)


def test_a_device_is_no_cluster_file():
    with pytest.raises(InputError, match="--cluster = '/dev/zero': is a device"):
        read_cluster_file(Path("/dev/zero"))


def test_a_missing_key_is_an_input_error(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(LOCAL.read_text().replace("~/.ssh/thaw_cluster", str(tmp_path / "none")))
    with pytest.raises(InputError, match="no such file"):
        ssh_key(read_cluster_file(path))
