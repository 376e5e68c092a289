"""Is a running cluster fit, and safe? Looks at it from here, and from each of its nodes."""

from __future__ import annotations

import json
import shlex
import time
import urllib.error
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.errors import RunFailed
from tuning.clusters.node_probe import MARK
from tuning.clusters.node_verdicts import judge
from tuning.doctor.findings import Finding
from tuning.doctor.mlflow_probe import ask

_SECONDS_FOR_PROBE = 420.0


@dataclass(frozen=True)
class Cluster:
    """A cluster to examine."""

    url: str  # of its dashboard, as reached from here
    token: str | None
    name: str | None = None  # of its file, for what is to be typed
    n_nodes: int | None = None  # that should be up; None: any number
    storage: str | None = None  # a sweeps folder that every node must be able to write


def examine_cluster(cluster: Cluster) -> Iterator[Finding]:
    """Look at a cluster; each finding comes as soon as it is had.

    Raises:
        RunFailed: it does not answer at all.
    """
    door = _examine_door(cluster)
    yield from door
    if cluster.token is None and any(finding.state == "ok" for finding in door):
        yield Finding(
            "token", "wrong", "this machine has none, so that nothing more can be asked",
            "copy the cluster's ~/.ray/auth_token to this machine, mode 600",
        )  # fmt: skip
        return
    try:
        report = _run_probe(cluster)
    except RunFailed as error:
        yield Finding("nodes", "wrong", str(error), "see its logs; ray up installs Thaw anew")
        return
    yield from _examine_nodes(cluster, report)
    yield from judge(report)


def _examine_door(cluster: Cluster) -> list[Finding]:
    """Whether the dashboard turns away who has no token, or a wrong one."""
    found = []
    for kind, headers in (
        ("without a token", {}),
        ("with a wrong token", _bearer("not-the-token")),
    ):
        status = _status(f"{cluster.url}/api/jobs/", headers)
        if status in (401, 403):
            found.append(Finding("token", "ok", f"a request {kind} is refused ({status})"))
        else:
            found.append(
                Finding(
                    "token", "wrong",
                    f"a request {kind} is taken ({status}): whoever reaches the cluster runs code",
                    "export RAY_AUTH_MODE=token before each `ray start`, as clusters/node_env.sh "
                    "does",
                )
            )  # fmt: skip
    return found


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _status(url: str, headers: dict[str, str]) -> int:
    try:
        ask(url, headers=headers)
        return 200
    except urllib.error.HTTPError as error:
        return error.code
    except ValueError:
        raise RunFailed(f"what answers at {url} is no Ray dashboard") from None
    except OSError as error:
        raise RunFailed(f"no Ray dashboard answers at {url}: {error}") from error


def _run_probe(cluster: Cluster) -> dict[str, Any]:
    """Run ``node_probe`` as a job of the cluster; what it says.

    Raises:
        RunFailed: it does not run, or not to its end.
    """
    jobs, headers = f"{cluster.url}/api/jobs/", _bearer(cluster.token)
    name = f"thaw-doctor-{uuid.uuid4().hex[:8]}"
    arguments = [] if cluster.storage is None else [cluster.storage]
    command = shlex.join(["python", "-m", "tuning.clusters.node_probe", *arguments])
    try:
        ask(jobs, {"entrypoint": command, "submission_id": name}, headers)
        until = time.monotonic() + _SECONDS_FOR_PROBE
        while (state := ask(jobs + name, headers=headers)["status"]) in ("PENDING", "RUNNING"):
            if time.monotonic() > until:
                ask(f"{jobs}{name}/stop", {}, headers)
                raise RunFailed(f"job {name} did not end within {_SECONDS_FOR_PROBE:g} s")
            time.sleep(1)
        log = str(ask(f"{jobs}{name}/logs", headers=headers)["logs"])
    except urllib.error.HTTPError as error:
        reason = "this machine's token is not the cluster's" if error.code == 403 else error
        raise RunFailed(f"the cluster does not run job {name}: {reason}") from error
    except (OSError, ValueError, KeyError) as error:
        raise RunFailed(f"the cluster stopped answering: {error}") from error
    lines = [line for line in log.splitlines() if line.startswith(MARK)]
    if state != "SUCCEEDED" or not lines:
        raise RunFailed(f"job {name} ended as {state}: {' | '.join(log.splitlines()[-3:])}")
    document: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return document


def _examine_nodes(cluster: Cluster, report: Mapping[str, Any]) -> Iterator[Finding]:
    addresses = [node["address"] for node in report["nodes"]]
    what = f"{len(addresses)} up: {', '.join(addresses)}"
    if cluster.n_nodes is not None and len(addresses) < cluster.n_nodes:
        yield Finding(
            "nodes", "wrong", f"{what}, of {cluster.n_nodes} in the cluster's file",
            f"wait a minute after `ray up`; then: ray exec {cluster.name or 'FILE'} "
            "'tail -n 50 /tmp/ray/session_latest/logs/monitor.log'",
        )  # fmt: skip
    else:
        yield Finding("nodes", "ok", what)
