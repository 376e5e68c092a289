"""cluster.yaml: Ray's schema and defaults accept it, and AWS, as moto plays it, launches it.

What is launched is what ``ray up`` would: Ray's own provider is asked, and its requests are kept.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray.autoscaler
import yaml
from helpers import ROOT
from moto import mock_aws
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import (
    TAG_RAY_CLUSTER_NAME,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

TEMPLATE = ROOT / "clusters" / "aws_account.yaml"
SSH_FROM = "203.0.113.7/32"
BUCKET = "bucket-of-mine"
ACCOUNT = "123456789012"  # moto's
WORKERS = ("gpu_on_demand", "gpu_spot")


def cluster_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


# The list of all of AWS's instance types, always the same, takes moto seconds to tell.
_instance_types = functools.cache(node_provider.list_ec2_instances)


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    """An empty account, and a home without keys."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(node_provider, "list_ec2_instances", _instance_types)
    caches = (aws_utils.resource_cache, aws_utils.client_cache, aws_config._get_subnets_or_die)
    with mock_aws():
        for cache in caches:
            cache.cache_clear()
        yield boto3.Session(region_name=cluster_file()["provider"]["region"])
        for cache in caches:
            cache.cache_clear()


def make_account(aws: boto3.Session, **parameters: str) -> None:
    given = {"SshFrom": SSH_FROM, "Bucket": BUCKET, **parameters}
    aws.client("cloudformation").create_stack(
        StackName="thaw",
        TemplateBody=TEMPLATE.read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
    )


@pytest.fixture
def account(aws: boto3.Session) -> boto3.Session:
    """An account that clusters/aws_account.yaml has prepared."""
    make_account(aws)
    return aws


def resolved() -> dict[str, Any]:
    """The file as ``ray up`` fills it in, up to the launch."""
    config = prepare_config(cluster_file())
    config = AWSNodeProvider.fillout_available_node_types_resources(config)
    validate_config(config)
    return AWSNodeProvider.bootstrap_config(config)


class Launcher:
    """Ray's provider for the cluster; keeps each request that it makes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.name = config["cluster_name"]
        self.provider = AWSNodeProvider(config["provider"], self.name)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        for resource in (self.provider.ec2, self.provider.ec2_fail_fast):
            resource.meta.client.meta.events.register("provide-client-params.ec2.*", self._keep)

    def _keep(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.requests.append((model.name, json.loads(json.dumps(params))))

    def launch(self, node_type: str) -> dict[str, Any]:
        """Launch one node of a type as Ray does: the request."""
        node_config = self.config["available_node_types"][node_type]["node_config"]
        tags = {
            TAG_RAY_NODE_KIND: "head" if node_type == "head" else "worker",
            TAG_RAY_USER_NODE_TYPE: node_type,
            TAG_RAY_NODE_NAME: f"ray-{self.name}-{node_type}",
            TAG_RAY_NODE_STATUS: "uninitialized",
        }
        self.provider.create_node(node_config, tags, 1)
        return [request for name, request in self.requests if name == "RunInstances"][-1]


@pytest.fixture
def launcher(account: boto3.Session) -> Launcher:
    return Launcher(resolved())


def instances(aws: boto3.Session) -> dict[str, dict[str, Any]]:
    """What EC2 says of each instance, by its node type."""
    found = {}
    for reservation in aws.client("ec2").describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            found[tags[TAG_RAY_USER_NODE_TYPE]] = {**instance, "Tags": tags}
    return found


# -- the file ------------------------------------------------------------------------------------


def test_ray_accepts_it_and_it_has_no_unknown_key():
    config = cluster_file()
    validate_config(prepare_config(config))
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    # `key_pair` is read by Ray's AWS code and missing in its schema, which lets any key pass here.
    assert config["provider"].keys() <= {
        *schema["properties"]["provider"]["properties"],
        "key_pair",
    }


def test_a_mistyped_key_is_found():
    config = prepare_config(cluster_file())
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config({**config, "idle_timeout": 5})


def test_it_scales_to_zero_and_has_bounds():
    config = prepare_config(cluster_file())
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert config["idle_timeout_minutes"] == 10
    assert config["provider"]["cache_stopped_nodes"] is False
    assert types.keys() == {"head", *WORKERS}
    assert types["head"]["max_workers"] == 0
    for name in WORKERS:
        assert types[name]["min_workers"] == 0
        assert 0 < types[name]["max_workers"] <= config["max_workers"]
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]


def test_what_it_mounts_is_there_and_is_all_that_is_installed():
    mounts = cluster_file()["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for remote, local in mounts.items():
        assert remote == f"~/thaw/{local}"
        assert (ROOT / local).exists(), local
    project = _pyproject()
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*packages, "clusters", "pyproject.toml", project["project"]["readme"]}
    assert mounts.keys() == {f"~/thaw/{name}" for name in needed | {"LICENSE"}}


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_command_has_the_token_on_and_the_dashboard_is_private():
    config = cluster_file()
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    for command in head + worker:
        # Chained: where the file is missing, nothing is started without a token.
        assert command.startswith(". ~/thaw/clusters/node_env.sh && ")
        assert not re.search(r";|\|\|", command)
    [start] = [shlex.split(command) for command in head if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


def test_workers_preload_what_trials_import():
    commands = " ".join(cluster_file()["worker_start_ray_commands"])
    [modules] = re.findall(r"RAY_preload_python_modules=(\S+)", commands)
    assert modules in (ROOT / "clusters" / "node_env.sh").read_text()
    assert "tuning.engines.ray_actors" in modules.split(",")


def test_scripts_that_it_names_are_there():
    config = cluster_file()
    commands = config["setup_commands"] + config["head_start_ray_commands"]
    commands += config["worker_start_ray_commands"]
    named = set(re.findall(r"~/thaw/(clusters/\w+\.\w+)", " ".join(commands)))
    assert named == {"clusters/set_up_node.sh", "clusters/node_env.sh", "clusters/mlflow_server.py"}
    for script in named:
        assert (ROOT / script).is_file(), script


def test_nodes_run_the_same_python_here_as_in_the_other_cluster_files():
    def python_of(path: str) -> str:
        [command] = yaml.safe_load((ROOT / path).read_text())["setup_commands"]
        return command.split()[-1]

    assert python_of("cluster.yaml") == python_of("clusters/local.yaml")
    assert python_of("cluster.yaml") in SpecifierSet(_pyproject()["project"]["requires-python"])


# -- what is launched ----------------------------------------------------------------------------


def test_the_head_is_launched_as_written(launcher, account):
    request = launcher.launch("head")
    assert request["InstanceType"] == "m6i.xlarge"
    assert request["ImageId"].startswith("resolve:ssm:/aws/service/canonical/ubuntu/server/24.04/")
    assert request["IamInstanceProfile"] == {"Name": "thaw-head"}
    assert request["KeyName"] == "thaw"
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    assert "InstanceMarketOptions" not in request
    assert request["MaxCount"] == 1
    head = instances(account)["head"]
    assert head["InstanceType"] == "m6i.xlarge"
    assert "InstanceLifecycle" not in head
    assert head["Tags"].items() >= {"project": "thaw", TAG_RAY_CLUSTER_NAME: "thaw"}.items()


@pytest.mark.parametrize(("node_type", "spot"), [("gpu_on_demand", False), ("gpu_spot", True)])
def test_a_worker_is_launched_as_written(launcher, account, node_type, spot):
    resources = launcher.config["available_node_types"][node_type]["resources"]
    assert (resources["CPU"], resources["GPU"]) == (4, 1)
    request = launcher.launch(node_type)
    assert request["InstanceType"] == "g5.xlarge"
    assert "/base-oss-nvidia-driver-gpu-ubuntu-24.04/" in request["ImageId"]
    assert request["IamInstanceProfile"] == {"Name": "thaw-worker"}
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    assert request.get("InstanceMarketOptions") == ({"MarketType": "spot"} if spot else None)
    [disk] = request["BlockDeviceMappings"]
    assert disk["Ebs"] == {"VolumeSize": 200, "VolumeType": "gp3", "Encrypted": True}
    worker = instances(account)[node_type]
    assert worker.get("InstanceLifecycle") == ("spot" if spot else None)
    assert worker["Tags"]["project"] == "thaw"


def test_a_mistyped_launch_parameter_is_found(launcher):
    node_config = launcher.config["available_node_types"]["gpu_spot"]["node_config"]
    node_config["BlockDeviceMappings"][0]["Ebs"]["VolumSize"] = 10
    with pytest.raises(Exception, match="VolumSize"):
        launcher.launch("gpu_spot")


def test_the_key_pair_is_made_when_missing_for_its_owner_alone(launcher, account, tmp_path):
    key = tmp_path / ".ssh" / "thaw.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert launcher.config["auth"]["ssh_private_key"] == str(key)
    assert [k["KeyName"] for k in account.client("ec2").describe_key_pairs()["KeyPairs"]] == [
        "thaw"
    ]


# -- who may reach it ----------------------------------------------------------------------------


def opened(aws: boto3.Session, group_id: str) -> dict[tuple[str, int | None], list[str]]:
    """(protocol, port) → who may come in, of one firewall."""
    [group] = aws.client("ec2").describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    return {
        (rule["IpProtocol"], rule.get("FromPort")): [
            *(network["CidrIp"] for network in rule["IpRanges"]),
            *(network["CidrIpv6"] for network in rule["Ipv6Ranges"]),
            *(pair["GroupId"] for pair in rule["UserIdGroupPairs"]),
        ]
        for rule in group["IpPermissions"]
    }


def test_only_ssh_is_open_and_only_to_the_given_network(launcher, account):
    for node_type in ("head", *WORKERS):
        launcher.launch(node_type)
    groups = {g["GroupId"] for i in instances(account).values() for g in i["SecurityGroups"]}
    [group_id] = groups
    assert opened(account, group_id) == {("tcp", 22): [SSH_FROM], ("-1", None): [group_id]}


def test_without_the_prepared_firewall_ray_opens_ssh_to_the_world(aws):
    """What cluster.yaml warns of; should Ray become stricter, the warning can go."""
    config = resolved()
    [group_id] = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    rules = opened(aws, group_id)
    assert rules.keys() == {("tcp", 22), ("-1", -1)} or rules.keys() == {("tcp", 22), ("-1", None)}
    assert rules["tcp", 22] == ["0.0.0.0/0"]


@pytest.mark.parametrize("network", ["0.0.0.0/0", "203.0.113.7", "my-office", ""])
def test_the_firewall_is_not_opened_to_everybody(network):
    [pattern] = re.findall(r"AllowedPattern: (\S+)", TEMPLATE.read_text())
    assert not re.fullmatch(pattern, network)
    assert re.fullmatch(pattern, SSH_FROM)
    assert re.fullmatch(pattern, "198.51.100.0/24")


# -- what it may do ------------------------------------------------------------------------------


def statements(aws: boto3.Session, role: str) -> list[dict[str, Any]]:
    """What a role may do; it has no policies of AWS's."""
    iam = aws.client("iam")
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    found = []
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        policy = iam.get_role_policy(RoleName=role, PolicyName=name)
        found += policy["PolicyDocument"]["Statement"]
    return found


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def allowed(policy: list[dict[str, Any]], action: str, arn: str, context: dict[str, str]) -> bool:
    """Whether a statement allows it: the part of IAM's rules that these policies use."""
    matches = {"StringEquals": str.__eq__, "StringLike": fnmatchcase}
    for statement in policy:
        assert statement["Effect"] == "Allow"
        conditions = [
            key in context and any(matches[operator](context[key], v) for v in _listed(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        ]
        if (
            action in _listed(statement["Action"])
            and any(fnmatchcase(arn, pattern) for pattern in _listed(statement["Resource"]))
            and all(conditions)
        ):
            return True
    return False


def ec2(kind: str) -> str:
    owner = "" if kind == "image" else ACCOUNT
    return f"arn:aws:ec2:us-west-2:{owner}:{kind}/some-id"


# What RunInstances touches, by AWS's reference of actions and resources.
LAUNCH_NEEDS = ("image", "key-pair", "network-interface", "security-group", "subnet", "volume")


def test_the_head_may_do_what_ray_asks_for(launcher, account):
    """All that Ray's provider asks EC2 for in a worker's life; tags as Ray sends them."""
    request = launcher.launch("gpu_spot")
    [node] = launcher.provider.non_terminated_nodes({TAG_RAY_NODE_KIND: "worker"})
    launcher.provider.set_node_tags(node, {TAG_RAY_NODE_STATUS: "up-to-date"})
    launcher.provider.terminate_nodes([node])
    asked = {name for name, _ in launcher.requests}
    assert asked == {"RunInstances", "DescribeInstances", "CreateTags", "TerminateInstances"}

    policy = statements(account, "thaw-head")
    [specification] = [t for t in request["TagSpecifications"] if t["ResourceType"] == "instance"]
    tags = {tag["Key"]: tag["Value"] for tag in specification["Tags"]}
    sent = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    there = {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
    assert allowed(policy, "ec2:DescribeInstances", "*", {})
    assert allowed(policy, "ec2:RunInstances", ec2("instance"), sent)
    for kind in (*LAUNCH_NEEDS, "spot-instances-request"):
        assert allowed(policy, "ec2:RunInstances", ec2(kind), {}), kind
    for kind in ("instance", "volume"):
        assert allowed(policy, "ec2:CreateTags", ec2(kind), {"ec2:CreateAction": "RunInstances"})
    assert allowed(policy, "ec2:CreateTags", ec2("instance"), there)
    assert allowed(policy, "ec2:TerminateInstances", ec2("instance"), there)
    parameter = request["ImageId"].removeprefix("resolve:ssm:")
    arn = f"arn:aws:ssm:us-west-2::parameter{parameter}"
    assert allowed(policy, "ssm:GetParameters", arn, {})
    role = f"arn:aws:iam::{ACCOUNT}:role/thaw-worker"
    assert allowed(policy, "iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})


@pytest.mark.parametrize(
    ("action", "arn", "context"),
    [
        ("ec2:TerminateInstances", ec2("instance"), {}),
        ("ec2:TerminateInstances", ec2("instance"), {"aws:ResourceTag/ray-cluster-name": "other"}),
        ("ec2:RunInstances", ec2("instance"), {"aws:RequestTag/ray-cluster-name": "other"}),
        ("ec2:CreateTags", ec2("instance"), {"aws:ResourceTag/ray-cluster-name": "other"}),
        ("ec2:AuthorizeSecurityGroupIngress", ec2("security-group"), {}),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin", {}),
        ("s3:GetObject", "arn:aws:s3:::another-bucket/file", {}),
        ("ssm:GetParameters", "arn:aws:ssm:us-west-2:123456789012:parameter/password", {}),
    ],
)
def test_the_head_may_do_nothing_else(account, action, arn, context):
    assert not allowed(statements(account, "thaw-head"), action, arn, context)
    assert not allowed(statements(account, "thaw-worker"), action, arn, context)


def test_both_roles_may_use_the_bucket_and_workers_nothing_else(account):
    worker = statements(account, "thaw-worker")
    for role in (worker, statements(account, "thaw-head")):
        assert allowed(role, "s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {})
        for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
            assert allowed(role, f"s3:{action}", f"arn:aws:s3:::{BUCKET}/sweeps/x", {}), action
    actions = {action for statement in worker for action in _listed(statement["Action"])}
    assert all(action.startswith("s3:") and "*" not in action for action in actions)


def test_without_a_bucket_workers_may_do_nothing(aws):
    make_account(aws, Bucket="")
    assert statements(aws, "thaw-worker") == []
    assert statements(aws, "thaw-head") != []
