"""Where a cluster's MLflow is, who gets in, and how its server is started."""

from __future__ import annotations

import argparse
import base64
import ipaddress
import json
import os
import secrets
import socket
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOME = Path(os.environ.get("THAW_HOME", "~/.thaw")).expanduser()
FOLDER = HOME / "mlflow"
CLUSTER_ENV = HOME / "cluster.env"
USER, ADMIN = "thaw", "admin"
_RAYS_OWN_FILE = Path("~/ray_bootstrap_config.yaml")  # JSON, in spite of its name
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy


def make_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, with every ``auto`` decided."""
    head_ip = head_address()
    host = options.host
    if host == "auto":
        # On an address that the whole world can reach, only for this machine.
        host = "127.0.0.1" if ipaddress.ip_address(head_ip).is_global else head_ip
    store = options.store
    if store == "auto":
        store = f"sqlite:///{FOLDER / 'mlflow.db'}"
    elif urlsplit(store).password:
        # Ray shows its commands, and copies the cluster file to the head.
        sys.exit("--store: must hold no password; put that into ~/.pgpass (mode 600)")
    return {
        "head_ip": head_ip,
        "host": host,
        "port": options.port,
        "store": store,
        "keep": options.keep,
        "url": f"http://{host}:{options.port}",
    }


def head_address() -> str:
    """The address at which the other nodes reach this one."""
    with suppress(OSError, ValueError, KeyError):
        provider = json.loads(_RAYS_OWN_FILE.expanduser().read_text())["provider"]
        if provider["type"] == "local":
            return socket.gethostbyname(provider["head_ip"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing: asks which address that would go from
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def write_cluster_env(settings: dict[str, Any]) -> None:
    """Tell this cluster's nodes where the head and its MLflow are, and how to get in."""
    lines = {
        "THAW_HEAD_IP": settings["head_ip"],
        "MLFLOW_TRACKING_URI": settings["url"],
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": _secret("password"),
    }
    partial = CLUSTER_ENV.with_suffix(".partial")
    partial.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    partial.replace(CLUSTER_ENV)


def _secret(name: str) -> str:
    """A password of this cluster, made when first asked for; of letters and digits only."""
    path = FOLDER / name
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(secrets.token_hex(24))
        partial.replace(path)
    path.chmod(0o600)
    return path.read_text()


def server_command(settings: dict[str, Any]) -> list[str]:
    """The server's command line, which all users of the machine can read."""
    hosts = [settings["host"], "localhost", "127.0.0.1"]
    return [
        sys.executable, "-m", "mlflow", "server",
        "--host", settings["host"], "--port", str(settings["port"]), "--workers", "2",
        "--artifacts-destination", str(FOLDER / "artifacts"),
        "--app-name", "basic-auth",
        "--allowed-hosts", ",".join(f"{host},{host}:*" for host in hosts),
    ]  # fmt: skip


def server_environment(settings: dict[str, Any]) -> dict[str, str]:
    """The server's environment, which only its user can read."""
    configuration = FOLDER / "basic_auth.ini"
    configuration.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"  # whoever makes an experiment may do all with it
        f"database_uri = sqlite:///{FOLDER / 'basic_auth.db'}\n"
        f"admin_username = {ADMIN}\n"
        "auth_cache_ttl_seconds = 60\n"  # hashing the password took 0.4 s of each request
    )
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": settings["store"],
        "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
        "MLFLOW_AUTH_ADMIN_PASSWORD": _secret("admin_password"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret("flask_secret_key"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes for what nothing here asks for
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def make_user(url: str) -> None:
    """Make the nodes' user, or give the one that is there the password that nodes have.

    Raises:
        OSError: the server refuses.
    """
    account = {"username": USER, "password": _secret("password")}
    try:
        _call("POST", f"{url}/api/2.0/mlflow/users/create", account)
    except urllib.error.HTTPError as error:
        if error.code != 400:  # 400: there is one
            raise
        _call("PATCH", f"{url}/api/2.0/mlflow/users/update-password", account)


def _call(method: str, url: str, body: dict[str, str]) -> None:
    login = base64.b64encode(f"{ADMIN}:{_secret('admin_password')}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with _DIRECT.open(request, timeout=60):
        pass


def is_healthy(url: str) -> bool:
    """Whether a server answers at ``url``."""
    try:
        with _DIRECT.open(f"{url}/health", timeout=10) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False
