"""Launches cluster.yaml for real: moto plays AWS, simulated hosts are its instances.

    python tests/lab/aws.py            as root; eight minutes on two busy cores

``ray up`` starts the head. A sweep's demand brings a spot worker, and demand for more GPUs than
spot gives an on-demand one; both go when they are idle; ``ray down`` leaves nothing. What EC2 and
IAM then know is read back and asserted. ``aws.txt`` beside this file is what it printed once.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hosts import CONTROL_ADDRESS, KEY, ROOT, Host, enter, hosts, is_inside, why_not
from moto_account import delete_stack, firewall, instances, moto_server, prepare, refused_code
from steps import BASHRC, CLUSTER, call, say, until

CHANGES = """\
the real cluster.yaml, with these changes:
    auth.ssh_user                   root, the simulated hosts' only user
    provider.use_internal_ips       true: they have no public addresses
    node_config.PrivateIpAddress    that of the type's simulated host
    max_workers of each type        1, because of that
    idle_timeout_minutes            2 instead of 10
    *_start_ray_commands            preceded by AWS's address and, on the head, its role's rights
"""
WORKERS = ("gpu_spot", "gpu_on_demand")
HOST_NAMES = ("head", "spot", "ondemand")  # of the head, and of the workers in their order
SSH_FROM = f"{CONTROL_ADDRESS}/32"
MOST_SECONDS = 400.0  # for any one step; each prints how long it took


def main() -> None:
    if reason := why_not():
        sys.exit(reason)
    if not is_inside():
        enter([sys.executable, *sys.argv])
    print(CHANGES, flush=True)
    with hosts(HOST_NAMES, BASHRC) as made, moto_server(CONTROL_ADDRESS) as url:
        head_rights = prepare(SSH_FROM, Path(f"{KEY}.pub").read_bytes())
        say("AWS's account is prepared; from here on it checks rights")
        say(f"the head's role asks for a firewall of its own: {refused_code(head_rights)}")
        Cluster(dict(zip(("head", *WORKERS), made, strict=True)), url, head_rights).prove()
    say("passed")


class Cluster:
    """cluster.yaml on three simulated hosts, of which each is one node type's only instance."""

    def __init__(self, hosts: dict[str, Host], url: str, head_rights: dict[str, str]) -> None:
        self.hosts = hosts
        self.original = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        CLUSTER.write_text(yaml.safe_dump(self._changed(url, head_rights), sort_keys=False))
        shutil.copy(KEY, KEY.with_name("thaw.pem"))  # what `ray up` looks for, for key pair thaw

    def _changed(self, url: str, head_rights: dict[str, str]) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(json.dumps(self.original))
        config["auth"]["ssh_user"] = "root"
        config["provider"]["use_internal_ips"] = True
        # Longer than another worker takes to join: whoever waits for it is idle.
        config["idle_timeout_minutes"] = 2
        for name, host in self.hosts.items():
            node_type = config["available_node_types"][name]
            node_type["node_config"]["PrivateIpAddress"] = host.address
            if name in WORKERS:
                node_type["max_workers"] = 1
        aws = {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **head_rights}
        exports = "export " + " ".join(f"{name}={value}" for name, value in aws.items())
        commands = config["head_start_ray_commands"]
        config["head_start_ray_commands"] = [f"{exports} && {command}" for command in commands]
        return config

    def prove(self) -> None:
        call("thaw", "doctor", "--mend", check=False)
        took("ray up", "ray", "up", "-y", str(CLUSTER))
        took("ray up --no-restart, nothing new", "ray", "up", "-y", "--no-restart", str(CLUSTER))
        assert instances().keys() == {"head"}
        self.check_launch("head", spot=False)
        self.sweep_brings_a_spot_worker()
        self.more_gpus_bring_an_on_demand_worker()
        self.idle_workers_end()
        took("ray down", "ray", "down", "-y", str(CLUSTER))
        states = {name: instance["State"] for name, instance in instances().items()}
        assert states == dict.fromkeys(self.hosts, "terminated"), states
        assert not self.has_raylet("head")
        delete_stack()
        say("all instances are terminated; the stack, its roles and its firewall are deleted")

    def sweep_brings_a_spot_worker(self) -> None:
        # Simulated hosts have no GPU to train on, so trials ask for CPUs, of which the head has 0.
        self.submit(
            "sweep",
            "thaw sweep digits --name lab --sweeps-folder ~/sweeps --trials 2 --concurrency 1 "
            "--cpus-per-trial 4 --gpus-per-trial 0 --set model=squeezenet1_1 --set image_size=32 "
            "--set epochs=1 --set freezing=head --set batch_size=128",
        )
        say("a sweep is submitted: 2 trials of 4 CPUs, one after the other")
        wait("a spot worker was launched", lambda: runs("gpu_spot"))
        self.check_launch("gpu_spot", spot=True)
        wait("it joined", lambda: self.n_nodes() == 2)
        wait("the sweep is complete", lambda: self.has_succeeded("sweep"))
        trials = json.loads(self.on_head("thaw trials lab --sweeps-folder ~/sweeps --json"))
        assert [trial["state"] for trial in trials] == ["completed"] * 2, trials
        say("both trials are completed")

    def more_gpus_bring_an_on_demand_worker(self) -> None:
        program = (
            "import ray; ray.init(address='auto'); "
            "group = ray.util.placement_group([{'GPU': 1}] * 2, strategy='STRICT_SPREAD'); "
            "assert group.wait(300)"
        )
        self.submit("gpus", f'python -c "{program}"')
        say("a job is submitted that wants a GPU on each of 2 nodes; spot is at its maximum, 1")
        wait("an on-demand worker was launched", lambda: runs("gpu_on_demand"))
        self.check_launch("gpu_on_demand", spot=False)
        wait("the job has succeeded", lambda: self.has_succeeded("gpus"))

    def idle_workers_end(self) -> None:
        for name in WORKERS:
            wait(f"{name}, idle, is terminated", lambda name=name: has_ended(name))
            assert not self.has_raylet(name)
            self.hosts[name].power_off()
        assert runs("head")
        assert self.n_nodes() == 1
        say("scaled to zero: only the head runs")

    def check_launch(self, node_type: str, *, spot: bool) -> None:
        instance = instances()[node_type]
        wanted = self.original["available_node_types"][node_type]["node_config"]
        profile = instance["IamInstanceProfile"]["Arn"].rpartition("/")[-1]
        assert profile == wanted["IamInstanceProfile"]["Name"]
        assert instance["InstanceType"] == wanted["InstanceType"]
        assert instance["ImageId"] == wanted["ImageId"]
        assert instance["KeyName"] == "thaw"
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert instance["PrivateIpAddress"] == self.hosts[node_type].address
        assert instance.get("InstanceLifecycle") == ("spot" if spot else None)
        assert instance["Tags"].items() >= {"ray-cluster-name": "thaw", "project": "thaw"}.items()
        opened = firewall(instance)
        assert opened == {"tcp 22-22": [SSH_FROM], "-1 all-all": ["this group"]}, opened
        kind = "spot" if spot else "on demand"
        say(f"{node_type}: {instance['InstanceType']} {kind}, {instance['ImageId']}")
        print(f"            role {profile}, key pair thaw, tag project=thaw, open: {opened}")

    def on_head(self, command: str) -> str:
        """What a command prints on the head, in a shell as people have it there."""
        return self.hosts["head"].run(f"bash -ic {shlex.quote(command)} 2>/dev/null")

    def submit(self, name: str, command: str) -> None:
        self.on_head(f"ray job submit --no-wait --submission-id {name} -- {command}")

    def has_succeeded(self, name: str) -> bool:
        """Whether a job has.

        Raises:
            AssertionError: it has failed; with the end of its log.
        """
        status = self.on_head(f"ray job status {name}").lower()
        assert "failed" not in status, self.on_head(f"ray job logs {name}")[-4000:]
        return "succeeded" in status

    def n_nodes(self) -> int:
        program = (
            "import ray; ray.init(address='auto', logging_level=40, log_to_driver=False); "
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        return int(self.on_head(f"python -c {shlex.quote(program)}").split()[-1])

    def has_raylet(self, name: str) -> bool:
        return self.hosts[name].run("pgrep -x raylet || true").strip() != ""


def runs(node_type: str) -> bool:
    return instances().get(node_type, {}).get("State") == "running"


def has_ended(node_type: str) -> bool:
    return instances()[node_type]["State"] == "terminated"


def took(what: str, *command: str) -> None:
    began = time.monotonic()
    call(*command, seconds=MOST_SECONDS)
    say(f"{what}: {time.monotonic() - began:.0f} s")


def wait(what: str, holds: Callable[[], bool]) -> None:
    began = time.monotonic()
    until(holds, MOST_SECONDS, what)
    say(f"{what}, after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
