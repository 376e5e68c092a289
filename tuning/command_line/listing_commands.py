"""The commands that show what there is: spaces, tasks and the MLflow UI."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from tuning.command_line.doctor_commands import ClusterOption, show_cluster_ui
from tuning.command_line.parameters import AsJson, TrackingUri, show


def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    cluster: ClusterOption = None,
) -> None:
    """Show the runs of this machine, or those of a cluster, in the MLflow UI on this machine."""
    if cluster is not None:
        if tracking_uri is not None:
            raise typer.BadParameter("--cluster and --tracking-uri can not be combined")
        show_cluster_ui(cluster, port)
        return
    from tuning.storage.addresses import resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri)
    where = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    # Otherwise the server also starts several processes for jobs that Thaw does not use.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    print(f"http://127.0.0.1:{port} shows {uri}; stop it with Ctrl-C", flush=True)
    os.execvp(sys.executable, [sys.executable, "-m", "mlflow", "ui", *where])


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(help="Search space whose domains are shown; default: list all spaces."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the search spaces, or show one."""
    from tuning.before_start.spaces import load_space, space_names
    from tuning.command_line.space_tables import space_table, spaces_table

    if name is not None:
        space = load_space(name).space
        show(space.to_json(), as_json, lambda _: space_table(space))
        return
    found = [load_space(each).space for each in space_names()]
    show([space.to_json() for space in found], as_json, lambda _: spaces_table(found))


def tasks(as_json: AsJson = False) -> None:
    """List the tasks and explain their settings."""
    from trainables.tasks.table import TASKS
    from tuning.command_line.space_tables import tasks_table

    if as_json:
        print(
            json.dumps({name: row.config_type.model_json_schema() for name, row in TASKS.items()})
        )
    else:
        tasks_table()
