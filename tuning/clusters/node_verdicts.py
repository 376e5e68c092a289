"""Judges what the nodes of a cluster have reported to ``node_probe``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from tuning.doctor.findings import Finding
from tuning.doctor.machine import disk_finding, gpu_finding, storage_finding
from tuning.user_code.versions import installed_versions

# Beyond the error of measuring. Trials' times and MLflow's order of events come from many clocks.
_CLOCK_WARNING_SECONDS, _CLOCK_WRONG_SECONDS = 1.0, 5.0
_BRING_CODE = (
    "`ray up --no-restart` brings them; files that are gone here: rm -r ~/thaw there first"
)
_DASHBOARD_PORT = 8265
_EVERYWHERE, _LOOPBACK = ("0.0.0.0", "::"), ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def judge(report: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings about each node."""
    here = installed_versions()
    for node in report["nodes"]:
        if "error" in node:
            yield Finding(
                "nodes", "wrong", f"it does not answer: {node['error']}",
                "look at that machine, then `ray up` again", node["address"],
            )  # fmt: skip
            continue
        yield _compare_versions(here, node)
        yield _gpus(node)
        yield _clock(node)
        for name, (folder, free) in node["free_bytes"].items():
            yield disk_finding(name, folder, free, node["address"])
        yield _agent(node)
        yield from _mlflow(report, node)
        if node["storage"] is not None:
            yield storage_finding(node["storage"]["error"], node["address"])
        if node["address"] == report["head_ip"]:
            yield from _open_doors(report, node)


def _compare_versions(here: Mapping[str, str], node: Mapping[str, Any]) -> Finding:
    there = node["versions"]
    differing = [
        f"{name} {there.get(name, 'missing')}, here {version}"
        for name, version in here.items()
        if _compared(name, there.get(name, "")) != _compared(name, version)
    ]
    deciding = [text for text in differing if text.split()[0] in ("python", "ray", "thaw")]
    if deciding:
        return Finding(
            "versions", "wrong", "; ".join(differing),
            "ray up from this checkout; the cluster file names Python's, pyproject.toml Ray's",
            node["address"],
        )  # fmt: skip
    if differing:
        return Finding("versions", "warning", "; ".join(differing), _BRING_CODE, node["address"])
    shown = ", ".join(f"{name} {there[name]}" for name in ("python", "ray", "thaw"))
    return Finding("versions", "ok", f"as here: {shown}", node=node["address"])


def _compared(name: str, version: str) -> str:
    """What must be equal. For Python the first two numbers, which decide what can be pickled."""
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _gpus(node: Mapping[str, Any]) -> Finding:
    of_driver, of_ray = node["gpus_of_driver"], node["gpus_of_ray"]
    finding = gpu_finding(of_driver, lambda: int(node["gpus_of_torch"]), node["address"])
    if finding.state == "ok" and of_driver != of_ray:
        return Finding(
            "GPUs", "wrong", f"the driver has {of_driver}, and Ray offers {of_ray:g}",
            "`ray start` counts them when it starts: --num-gpus, or CUDA_VISIBLE_DEVICES there",
            node["address"],
        )  # fmt: skip
    return finding


def _clock(node: Mapping[str, Any]) -> Finding:
    ahead, error = node["clock_ahead_seconds"], node["clock_error_seconds"]
    what = f"{abs(ahead):.2f} s {'ahead of' if ahead >= 0 else 'behind'} the head's (± {error:.2f})"
    surely = abs(ahead) - error
    if surely < _CLOCK_WARNING_SECONDS:
        return Finding("clock", "ok", what, node=node["address"])
    state = "wrong" if surely > _CLOCK_WRONG_SECONDS else "warning"
    mend = "keep it by NTP: sudo timedatectl set-ntp true"
    return Finding("clock", state, what, mend, node["address"])  # type: ignore[arg-type]


def _agent(node: Mapping[str, Any]) -> Finding:
    if node["refuses_without_token"] is False:
        return Finding(
            "token", "wrong", "its agent takes jobs without a token",
            "export RAY_AUTH_MODE=token before `ray start` there", node["address"],
        )  # fmt: skip
    said = "refuses" if node["refuses_without_token"] else "is not reached"
    return Finding("token", "ok", f"without a token its agent {said}", node=node["address"])


def _mlflow(report: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Finding]:
    if not node["mlflow"]:
        yield Finding(
            "MLflow", "warning", "MLFLOW_TRACKING_URI is not set there: trials find no MLflow",
            "export it before `ray start`, as clusters/node_env.sh does", node["address"],
        )  # fmt: skip
    for finding in node["mlflow"]:
        yield Finding(**{**finding, "node": node["address"]})


def _open_doors(report: Mapping[str, Any], head: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether dashboard and MLflow listen where more than they should can reach them."""
    ports = {"the dashboard": _DASHBOARD_PORT}
    if report["mlflow"] and urlsplit(report["mlflow"]).port:
        ports["MLflow"] = int(urlsplit(report["mlflow"]).port or 0)
    for name, port in ports.items():
        addresses = [address for address, each in head["listening"] if each == port]
        if not addresses:
            continue
        what = f"{name} listens on {', '.join(addresses)}, port {port}"
        yield _judge_door(name, what, addresses, head["address"])


def _judge_door(name: str, what: str, addresses: Iterable[str], node: str) -> Finding:
    if all(address in _LOOPBACK for address in addresses):
        return Finding("ports", "ok", what, node=node)
    mend = (
        "start it with --dashboard-host=127.0.0.1"
        if name == "the dashboard"
        else "start it with clusters/mlflow_server.py, which binds it to the private address"
    )
    if name == "the dashboard" or any(address in _EVERYWHERE for address in addresses):
        return Finding("ports", "warning", what, mend, node)
    return Finding("ports", "ok", what, node=node)
