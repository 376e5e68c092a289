"""The commands for sweeps that were submitted to a cluster: status, logs, stop and fetch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tuning.command_line.cluster_commands import ClusterFile, DashboardAddress, show_commands
from tuning.command_line.parameters import AsJson, show

SubmittedName = Annotated[str, typer.Argument(help="A submitted sweep's name.", show_default=False)]


def status(
    name: Annotated[
        str | None, typer.Argument(help="A submitted sweep's name. Without one, all are listed.")
    ] = None,
    cluster: ClusterFile = None,
    address: DashboardAddress = None,
    as_json: AsJson = False,
) -> None:
    """List the sweeps that were submitted to a cluster, or show how one of them stands."""
    from tuning.clusters.sent_sweeps import describe_sweep, list_sweeps
    from tuning.clusters.tunnel import reach
    from tuning.command_line.tables import submitted_table, sweep_status

    with reach(cluster, address) as reached:
        if name is None:
            show(list_sweeps(reached.dashboard), as_json, submitted_table)
        else:
            show(describe_sweep(reached.dashboard, name), as_json, sweep_status)


def logs(
    name: SubmittedName,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep printing until the sweep has ended.")
    ] = False,
    cluster: ClusterFile = None,
    address: DashboardAddress = None,
    as_json: AsJson = False,
) -> None:
    """Print what a submitted sweep has printed on the cluster."""
    from tuning.clusters.follow import print_log
    from tuning.clusters.tunnel import reach

    if follow and as_json:
        raise typer.BadParameter("--follow and --json can not be combined")
    with reach(cluster, address) as reached:
        lines = print_log(reached.dashboard, name, follow=follow)
        if as_json:
            print(json.dumps({"sweep": name, "lines": list(lines)}, indent=1))
            return
        for line in lines:
            print(line, flush=follow)


def stop(
    name: SubmittedName,
    cluster: ClusterFile = None,
    address: DashboardAddress = None,
    as_json: AsJson = False,
) -> None:
    """Stop a submitted sweep, losing nothing; `thaw submit --resume NAME` continues it."""
    from tuning.clusters.sent_sweeps import describe_sweep
    from tuning.clusters.submission import stop_sweep
    from tuning.clusters.tunnel import reach
    from tuning.command_line.tables import sweep_status

    with reach(cluster, address) as reached:
        stop_sweep(reached.dashboard, name, lambda message: print(message, file=sys.stderr))
        document = describe_sweep(reached.dashboard, name)
    show(document, as_json, sweep_status)
    if document["state"] == "stopped" and not as_json:
        show_commands(reached.option, f"submit --resume {name}", f"fetch {name}")


def fetch(
    name: SubmittedName,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to copy it. Default: sweeps/NAME."),
    ] = None,
    cluster: ClusterFile = None,
    address: DashboardAddress = None,
    as_json: AsJson = False,
) -> None:
    """Copy a submitted sweep's record and best checkpoint to this machine."""
    from tuning.clusters.sent_sweeps import fetch_sweep
    from tuning.clusters.tunnel import reach
    from tuning.command_line.tables import fetched_table

    target = to or Path("sweeps") / name
    with reach(cluster, address) as reached:
        document = fetch_sweep(reached.dashboard, name, target.resolve())
    show(document, as_json, fetched_table)
