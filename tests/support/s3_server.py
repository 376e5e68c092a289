"""An S3 on this machine, for tests: moto's server on the loopback interface."""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ports import free_ports

# What its users have in their environment. It does not look at the keys, unless told to.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # else a client looks for it on the network
}


class Server:
    """Can be taken away and brought back, with what it holds."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.start()

    def start(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=20).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("moto's server did not start")

    def stop(self) -> None:
        self._server.stop()

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.port}/{path}"
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            content: bytes = response.read()
            return content

    def make_bucket(self, name: str) -> str:
        """Make a bucket; returns the URI of a folder in it."""
        self.request("PUT", name)
        return self.uri(name)

    def uri(self, bucket: str, prefix: str = "sweeps") -> str:
        return f"s3://{bucket}/{prefix}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def make_user(self, *actions: str) -> tuple[str, str]:
        """Make a user who may do some things in every bucket; returns its two keys."""
        import boto3

        iam = boto3.client("iam", endpoint_url=f"http://127.0.0.1:{self.port}")
        name = f"user-{time.monotonic_ns()}"
        iam.create_user(UserName=name)
        allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName=name, PolicyName="some", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    @contextmanager
    def keys_are_checked(self) -> Iterator[None]:
        """Refuse whoever is not known, as a cloud does; else moto lets everybody in."""
        self.request("POST", "moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "moto-api/reset-auth", b"inf")


@pytest.fixture(scope="session")
def one_s3_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def s3(one_s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with keys that it does not look at in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return one_s3_server


@pytest.fixture
def bucket(s3: Server, request: pytest.FixtureRequest) -> str:
    """The URI of a folder in a bucket of the test's own."""
    return s3.make_bucket(f"b{abs(hash(request.node.nodeid)) % 10**12}")
