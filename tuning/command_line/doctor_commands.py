"""The commands that concern clusters: `thaw doctor`, and `thaw ui --cluster`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from tuning.command_line.parameters import AsJson
from tuning.doctor.findings import Finding

ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE", help="The cluster's file, as for `ray up`."),
]


def doctor(
    cluster: ClusterOption = None,
    address: Annotated[
        str | None, typer.Option(help="Address of a running cluster's dashboard: http://HOST:8265.")
    ] = None,
    sweeps_folder: Annotated[
        str | None,
        typer.Option(
            "--sweeps-folder", help="Path or URI of sweeps that every node must be able to write."
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="Address of MLflow, as for a sweep on this machine."),
    ] = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="Make the token if it is missing, and make it private.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find out what is wrong with this machine, or with a running cluster, and how to mend it."""
    from tuning.doctor.findings import is_well, to_document

    if cluster is not None and address is not None:
        raise typer.BadParameter("--cluster and --address can not be combined")
    if mend and (cluster is not None or address is not None):
        raise typer.BadParameter("--mend is for this machine, without --cluster and --address")
    if cluster is not None:
        findings = _examine_file(cluster, sweeps_folder)
    elif address is not None:
        findings = _examine_address(address, sweeps_folder)
    else:
        findings = _examine_here(sweeps_folder, tracking_uri, mend)
    found = list(findings) if as_json else _show(findings)
    if as_json:
        print(json.dumps(to_document(found), indent=1))
    if not is_well(found):
        raise typer.Exit(1)


def _examine_here(
    sweeps_folder: str | None, tracking_uri: str | None, mend: bool
) -> Iterator[Finding]:
    from tuning.doctor.machine import Examination, examine_machine

    return examine_machine(Examination(sweeps_folder or "sweeps", tracking_uri, mend))


def _examine_address(address: str, storage: str | None) -> Iterator[Finding]:
    from trainables.errors import InputError
    from tuning.clusters.cluster_doctor import Cluster, examine_cluster
    from tuning.doctor.auth_token import read_token

    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"--address = {address!r}: must be a dashboard's, such as http://127.0.0.1:8265"
        )
    return examine_cluster(Cluster(address.rstrip("/"), read_token(), storage=storage))


def _examine_file(path: Path, storage: str | None) -> Iterator[Finding]:
    from tuning.clusters.cluster_doctor import Cluster, examine_cluster
    from tuning.clusters.cluster_file import read_cluster_file
    from tuning.clusters.tunnel import open_tunnel
    from tuning.doctor.auth_token import read_token

    found = read_cluster_file(path)
    with open_tunnel(found) as tunnel:
        yield Finding("SSH", "ok", f"the head of cluster {found.name} answers")
        yield from examine_cluster(
            Cluster(tunnel.url, read_token(), str(path), found.n_nodes, storage)
        )


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
    print("all is well" if n_wrong == 0 else f"{n_wrong} wrong")
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
