"""Whether an MLflow server answers, asks for a password, and takes what is written."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
import uuid
from typing import Any

from tuning.doctor.findings import Finding

_SECONDS = 60.0
_LOGIN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; nodes have them from `ray up`"
_START = (
    "on the head: . ~/thaw/clusters/node_env.sh && python ~/thaw/clusters/mlflow_server.py start; "
    "its log is ~/.thaw/mlflow/server.log"
)
_SEARCH, _CREATE, _DELETE = (
    f"api/2.0/mlflow/experiments/{n}" for n in ("search", "create", "delete")
)
# A proxy of the environment is not asked: the server is on this network or this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _ask(url: str, body: dict[str, Any], login: dict[str, str] | None = None) -> Any:
    """The JSON that a server answers to a POST of ``body``.

    Raises:
        urllib.error.HTTPError: it refuses; ``code`` says how.
        OSError: it does not answer.
    """
    headers = {"Content-Type": "application/json", **(login or {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with _OPENER.open(request, timeout=_SECONDS) as answer:
        return json.loads(answer.read() or b"null")


def _login_from_environment() -> dict[str, str]:
    """The header that MLflow's own client would send."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{n}") for n in ("USERNAME", "PASSWORD"))
    if not user or not password:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def examine_mlflow(url: str) -> list[Finding]:
    """The findings about the server at ``url``, logged in as the environment says."""
    url = url.rstrip("/")
    return [_examine_door(url), _examine_writing(url)]


def _examine_door(url: str) -> Finding:
    try:
        _ask(f"{url}/{_SEARCH}", {"max_results": 1})
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return Finding("MLflow", "ok", f"{url} asks for a password")
        return Finding("MLflow", "warning", f"{url} without a password: {error}", _START)
    except (OSError, ValueError):
        return Finding("MLflow", "warning", f"{url} could not be tried without a password", _START)
    return Finding(
        "MLflow", "warning", f"{url} asks nobody for a password",
        "start it with clusters/mlflow_server.py, or mlflow server --app-name basic-auth",
    )  # fmt: skip


def _examine_writing(url: str) -> Finding:
    name, login = f"thaw-doctor-{uuid.uuid4().hex[:8]}", _login_from_environment()
    try:
        made = _ask(f"{url}/{_CREATE}", {"name": name}, login)
        _ask(f"{url}/{_DELETE}", {"experiment_id": made["experiment_id"]}, login)
    except urllib.error.HTTPError as error:
        return Finding("MLflow", "wrong", f"{url} refuses to write: {error}", _LOGIN)
    except (OSError, ValueError, KeyError) as error:
        return Finding("MLflow", "wrong", f"{url} does not answer: {error}", _START)
    return Finding("MLflow", "ok", f"{url} takes what is written")
