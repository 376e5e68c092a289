"""What the commands for sweeps on a cluster print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuning.after.results import progress_line
from tuning.command_line.printing import make_table, near, print_all, print_next, settings_table
from tuning.storage.disk import show_bytes


def submitted_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The sweeps that were submitted to a cluster."""
    table = make_table("submitted sweeps", "sweep", "state", "started", "ended")
    for row in rows:
        table.add_row(row["sweep"], row["state"], row["started"] or "–", row["ended"] or "–")
    print_all(table)


def sweep_status(document: Mapping[str, Any]) -> None:
    """The state of a submitted sweep, and its best trial so far."""
    summary = document["summary"]
    progress = "" if summary is None else f": {progress_line(summary)}"
    print_all(f"sweep {document['sweep']} is {document['state']}{progress}")
    for name, what in (("driver_restarts", "its driver"), ("job_restarts", "its job")):
        if document[name]:
            times = "once" if document[name] == 1 else f"{document[name]} times"
            print_all(f"{what} was lost and started again {times}")
    print_all(*document["last_lines"])
    if summary is None:
        return
    if document["state"] not in ("pending", "running"):
        print_all(f"ended because {summary['ended_because']}")
    if (best := summary["best"]) is not None:
        config = {name: best["config"].get(name) for name in summary["searched"]}
        values = {name: value for name, value in config.items() if value is not None}
        title = f"best: trial {best['trial']}, {summary['metric']} {best['value']:.4f}"
        print_all(settings_table(title, values))
    mlflow = summary["mlflow"]
    print_all(
        f"folder      {summary['folder']}, on the cluster",
        f"MLflow      {mlflow['tracking_uri']}, experiment {mlflow['experiment']}",
    )


def fetched_table(document: Mapping[str, Any]) -> None:
    """What was fetched of a submitted sweep, and what can be done with it here."""
    folder, checkpoint = near(document["folder"]), document["checkpoint"]
    print_all(f"fetched sweep {document['sweep']}, {show_bytes(document['bytes'])}, to {folder}")
    commands = [f"trials {folder}", f"best {folder}"]
    if checkpoint is not None:
        commands.append(f"predict {near(checkpoint)} FILE…")
    else:
        print_all("there is no checkpoint: the cluster keeps none of the best trial")
    print_next(*commands)
