"""The commands that concern clusters: `thaw doctor`, and `thaw ui --cluster`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tuning.command_line.parameters import AsJson
from tuning.doctor.findings import Finding

ClusterOption = Annotated[
    Path | None, typer.Option("--cluster", metavar="FILE", help="A cluster's file for `ray up`.")
]


def doctor(
    cluster: ClusterOption = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A running cluster's dashboard, such as http://HOST:8265."
        ),
    ] = None,
    sweeps_folder: Annotated[
        str | None,
        typer.Option(
            "--sweeps-folder", help="Path or URI for sweeps, to see whether it can be written."
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow's address, as for `thaw sweep`.")
    ] = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="Make the token file if it is missing, for you alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find out what is wrong with this machine or a running cluster, and how to mend it."""
    if cluster is not None and address is not None:
        raise typer.BadParameter("--cluster and --address can not be combined")
    if mend and (cluster is not None or address is not None):
        raise typer.BadParameter("--mend is for this machine, without --cluster and --address")
    findings = _examine(cluster, address, sweeps_folder, tracking_uri, mend)
    found = list(findings) if as_json else _show(findings)
    is_well = all(finding.state != "wrong" for finding in found)
    if as_json:
        document = {"well": is_well, "findings": [asdict(finding) for finding in found]}
        print(json.dumps(document, indent=1))
    if not is_well:
        raise typer.Exit(1)


def _examine(
    cluster_file: Path | None,
    address: str | None,
    sweeps_folder: str | None,
    tracking_uri: str | None,
    mend: bool,
) -> Iterator[Finding]:
    if cluster_file is None and address is None:
        from tuning.doctor.machine import examine_machine

        yield from examine_machine(sweeps_folder or "sweeps", tracking_uri, mend=mend)
        return
    from tuning.clusters.cluster_doctor import Cluster, examine_cluster
    from tuning.clusters.cluster_file import read_cluster_file
    from tuning.clusters.dashboard_http import dashboard_url
    from tuning.clusters.tunnel import open_tunnel
    from tuning.doctor.auth_token import read_token

    if cluster_file is None:
        url = dashboard_url(str(address))
        yield from examine_cluster(Cluster(url, read_token(), storage=sweeps_folder))
        return
    found = read_cluster_file(cluster_file)
    with open_tunnel(found) as tunnel:
        yield Finding("SSH", "ok", f"the head of cluster {found.name} answers")
        name, n_nodes = str(cluster_file), found.n_nodes
        yield from examine_cluster(Cluster(tunnel.url, read_token(), name, n_nodes, sweeps_folder))


def _show(findings: Iterable[Finding]) -> list[Finding]:
    """Print each finding as it comes."""
    marks = {"ok": "ok     ", "warning": "warning", "wrong": "WRONG  "}
    found = []
    for finding in findings:
        found.append(finding)
        node = f"{finding.node}: " if finding.node else ""
        print(f"{marks[finding.state]}  {finding.check:<10}  {node}{finding.what}", flush=True)
        if finding.mend and finding.state != "ok":
            print(f"{'':21}mend: {finding.mend}", flush=True)
    n_wrong = sum(finding.state == "wrong" for finding in found)
    print("all is well" if n_wrong == 0 else f"problems found: {n_wrong}")
    return found


def show_cluster_ui(path: Path, port: int) -> None:
    """Tunnel the MLflow of a cluster's head to this machine until Ctrl-C.

    Raises:
        InputError: the file is no cluster file, or the port is in use.
        RunFailed: the head can not be reached, or is lost.
    """
    from trainables.errors import RunFailed
    from tuning.clusters.cluster_file import read_cluster_file
    from tuning.clusters.tunnel import find_mlflow, free_port, keep_password, open_tunnel

    cluster = read_cluster_file(path)
    free_port(port)  # before the head is asked anything
    mlflow = find_mlflow(cluster)
    password_file = keep_password(cluster, mlflow)
    with open_tunnel(cluster, (mlflow.host, mlflow.port), port) as tunnel:
        print(
            f"{tunnel.url} shows the MLflow of cluster {cluster.name}; close it with Ctrl-C\n"
            f"name {mlflow.user}, password in {password_file}",
            flush=True,
        )
        try:
            tunnel.process.wait()
        except KeyboardInterrupt:
            return
    raise RunFailed(f"the connection to cluster {cluster.name} has ended")
