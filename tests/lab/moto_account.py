"""An AWS account played by moto: prepared as a user would, with rights that are checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REGION = "us-west-2"
TEMPLATE = Path(__file__).parents[2] / "clusters" / "aws_account.yaml"


@contextmanager
def moto_server(address: str, port: int = 5000) -> Iterator[str]:
    """Run it, and make this process and what it starts its clients; yields its URL."""
    url = f"http://{address}:{port}"
    os.environ.update(
        AWS_ENDPOINT_URL=url,
        AWS_DEFAULT_REGION=REGION,
        AWS_EC2_METADATA_DISABLED="true",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
    )
    checks = {
        "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
        "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
    }
    with Path("~/moto.log").expanduser().open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
            env={**os.environ, **checks}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_for(f"{url}/moto-api/")
        yield url
    finally:
        server.kill()
        server.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def client(service: str, **credentials: str) -> Any:
    import boto3

    # Of a new session: boto3 remembers whose credentials it first found.
    return boto3.Session().client(service, **credentials)


def prepare(ssh_from: str, public_key: bytes) -> dict[str, str]:
    """A network, a key pair, and clusters/aws_account.yaml; from then on rights are checked.

    Returns:
        The variables with the credentials that the head's role gives; those of this process then
        belong to a user who may do everything.
    """
    ec2, iam = client("ec2"), client("iam")
    for subnet in ec2.describe_subnets()["Subnets"]:  # of the default VPC: other addresses
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/24")
    ec2.import_key_pair(KeyName="thaw", PublicKeyMaterial=public_key)
    parameters = {"SshFrom": ssh_from, "Bucket": "bucket-of-mine", "Vpc": vpc}
    client("cloudformation").create_stack(
        StackName="thaw",
        TemplateBody=TEMPLATE.read_text(),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
    )
    head = _credentials_of_head(iam)
    _become_administrator(iam)
    reset = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    request = urllib.request.Request(reset, b"0", {"Content-Type": "text/plain"})
    with urllib.request.urlopen(request, timeout=30):  # no more requests without rights
        return head


def _policy(**statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def _credentials_of_head(iam: Any) -> dict[str, str]:
    """Those of a role that may do the actions of thaw-head, whose profile would give its own.

    Of a policy moto understands the actions, not most resources and conditions, and would allow
    nothing; tests/test_aws.py has those.
    """
    actions: set[str] = set()
    for name in iam.list_role_policies(RoleName="thaw-head")["PolicyNames"]:
        document = iam.get_role_policy(RoleName="thaw-head", PolicyName=name)["PolicyDocument"]
        for statement in document["Statement"]:
            listed = statement["Action"]
            actions |= {listed} if isinstance(listed, str) else set(listed)
    trust = _policy(Action="sts:AssumeRole", Principal={"AWS": "*"})
    role = iam.create_role(RoleName="actions-of-head", AssumeRolePolicyDocument=trust)["Role"]
    rights = _policy(Action=sorted(actions), Resource="*")
    iam.put_role_policy(RoleName="actions-of-head", PolicyName="all", PolicyDocument=rights)
    given = client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="head")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
        "AWS_SESSION_TOKEN": given["SessionToken"],
    }


def _become_administrator(iam: Any) -> None:
    iam.create_user(UserName="me")
    rights = _policy(Action="*", Resource="*")
    iam.put_user_policy(UserName="me", PolicyName="all", PolicyDocument=rights)
    key = iam.create_access_key(UserName="me")["AccessKey"]
    os.environ["AWS_ACCESS_KEY_ID"] = key["AccessKeyId"]
    os.environ["AWS_SECRET_ACCESS_KEY"] = key["SecretAccessKey"]


def refused_code(credentials: dict[str, str]) -> str:
    """What AWS answers when these credentials, which may look, would open a firewall.

    Raises:
        AssertionError: they may.
    """
    from botocore.exceptions import ClientError

    ec2 = client("ec2", **{name.lower(): value for name, value in credentials.items()})
    ec2.describe_instances()
    try:
        ec2.create_security_group(GroupName="mine", Description="mine")
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    raise AssertionError("the head may make firewalls")


def instances() -> dict[str, dict[str, Any]]:
    """What EC2 says of each instance ever launched, by its node type; tags and state made plain.

    Raises:
        AssertionError: one type was launched twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for reservation in client("ec2").describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            node_type = tags["ray-user-node-type"]
            assert node_type not in found, f"{node_type} was launched twice"
            found[node_type] = {**instance, "Tags": tags, "State": instance["State"]["Name"]}
    return found


def firewall(instance: dict[str, Any]) -> dict[str, list[str]]:
    """What is open, as "protocol ports", and to whom, of an instance's only security group."""
    [group] = instance["SecurityGroups"]
    [group] = client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    assert group["GroupName"] == "thaw"
    opened = {}
    for rule in group["IpPermissions"]:
        networks = [network["CidrIp"] for network in rule["IpRanges"]]
        groups = [pair["GroupId"] for pair in rule["UserIdGroupPairs"]]
        ports = f"{rule.get('FromPort', 'all')}-{rule.get('ToPort', 'all')}"
        name = {group["GroupId"]: "this group"}
        opened[f"{rule['IpProtocol']} {ports}"] = networks + [name.get(g, g) for g in groups]
    return opened


def delete_stack() -> None:
    """As a user would at the end.

    Raises:
        AssertionError: something of the stack is left.
    """
    client("cloudformation").delete_stack(StackName="thaw")
    iam = client("iam")
    assert iam.list_instance_profiles()["InstanceProfiles"] == []
    roles = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    assert roles == ["actions-of-head"], roles  # made here
    groups = client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default"}
