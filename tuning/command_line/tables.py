"""What is printed of sweeps and of what came of them, here or on a cluster, for people."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tuning.after.results import progress_line, searched
from tuning.command_line.printing import (
    make_table,
    near,
    print_all,
    print_next,
    settings_table,
    show,
    thaw_command,
)
from tuning.record.sweep import Sweep
from tuning.search.study_storage import study_address
from tuning.storage.disk import show_bytes

if TYPE_CHECKING:
    from tuning.session.runner import SweepResult

_MOST_SEED_COLUMNS = 5  # of more seeds, only mean and deviation are shown


def _trials_table(title: str, sweep: Sweep, before: Sequence[str], after: Sequence[str]) -> Table:
    """A table with a narrow column for each metric, and the configuration in the last one."""
    metrics = [name.replace("_", "_\n") for name in sweep.objectives]
    table = make_table(title, *before, *metrics, *after)
    table.add_column("configuration", overflow="fold", ratio=1)
    return table


def sweep_report(sweep: Sweep, result: SweepResult) -> None:
    """The best configuration, where everything lies, and what to type next."""
    summary = result.summary
    counts = ", ".join(f"{count} {state}" for state, count in summary["trials"].items())
    print_all(f"sweep {sweep.name}: {counts}, in {summary['wall_seconds']:.0f} s")
    print_all(f"ended because {summary['ended_because']}")
    best = summary["best"]
    if best is not None:
        _confirmed_table(sweep, summary["confirmed"])
        title = f"best: trial {best['trial']}, {sweep.metric} {best['value']:.4f}"
        print_all(settings_table(title, searched(sweep, best["config"])))
    _pareto_table(sweep, summary)
    print_all(
        f"folder      {near(sweep.place)}",
        f"checkpoint  {near(best['checkpoint']) if best else '–'}",
        f"MLflow      {sweep.tracking_uri}, experiment {sweep.experiment}",
        f"study       {near(study_address(sweep))}",
    )
    if not result.mlflow_complete:
        print_all(f"MLflow lacks some of it; `thaw resume {sweep.reference}` writes the rest")
    if result.interrupted:
        print_all("", f"interrupted; continue with\n  {thaw_command()} resume {sweep.reference}")
    elif best is not None:
        commands = [f"trials {sweep.reference}", f"retrain {sweep.reference} --seeds 3"]
        if sweep.space.task is not None and best["checkpoint"] is not None:
            commands.append(f"predict {shlex.quote(near(best['checkpoint']))} FILE…")
        print_next(*commands, "ui")


def _confirmed_table(sweep: Sweep, confirmed: Sequence[Mapping[str, Any]]) -> None:
    """The trials that ran again with fresh seeds, and which one is best; nothing if none did."""
    if not confirmed:
        return
    table = make_table(
        f"confirmed: {sweep.metric} with {confirmed[0]['n_seeds']} fresh seeds each",
        "trial", "in the search", "mean", "standard deviation", "each seed",
    )  # fmt: skip
    for row in confirmed:
        numbers = (row["value"], row["mean"], row["standard_deviation"])
        each = " ".join(f"{value:.4f}" for value in row["values"])
        table.add_row(str(row["trial"]), *map(show, numbers), each)
    print_all(table)
    best = confirmed[0]
    if best["mean"] is None:
        print_all("none completed with every fresh seed, so the search's own values decide")
        return
    sign = -1 if sweep.mode == "max" else 1
    luckiest = min(confirmed, key=lambda row: sign * row["value"])
    agrees = luckiest is best
    print_all(
        f"trial {best['trial']} is the best by its mean over fresh seeds"
        + (", as in the search" if agrees else f"; in the search it was trial {luckiest['trial']}")
    )


def trials_table(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> None:
    """A sweep's trials, best first."""
    sign = -1 if sweep.mode == "max" else 1
    ordered = sorted(
        rows,
        key=lambda row: (
            row["state"] in ("failed", "infeasible") or row[sweep.metric] is None,
            row["confirmed"] is None,
            sign * (row["confirmed"] or row[sweep.metric] or 0.0),
        ),
    )
    title = f"sweep {sweep.name}"
    table = _trials_table(title, sweep, ("trial", "state"), ("epochs", "training\nseconds"))
    for row in ordered:
        chosen = [f"{n}={show(row[n])}" for n in sweep.space.domains if row[n] is not None]
        error = [f"[{row[name]}]" for name in ("packing", "error") if row[name]]
        numbers = [row[name] for name in (*sweep.objectives, "epochs", "training_seconds")]
        if row["confirmed"] is not None:
            error.append(f"[{row['confirmed']:.4f} with fresh seeds]")
        cells = (str(row["trial"]), row["state"], *map(show, numbers))
        table.add_row(*cells, " ".join(chosen + error))
    print_all(table)


def best_table(sweep: Sweep, document: Mapping[str, Any]) -> None:
    """The best trial: what was searched, then the rest of its configuration."""
    chosen = searched(sweep, document["config"])
    rest = {name: value for name, value in document["config"].items() if name not in chosen}
    title = f"sweep {sweep.name}, trial {document['trial']}: {sweep.metric} {document['value']:.4f}"
    print_all(settings_table(title, chosen), settings_table("not searched", rest))
    _pareto_table(sweep, document)
    print_all(
        f"checkpoint  {near(document['checkpoint'])}",
        f"MLflow run  {document['mlflow_run_id'] or '–'}",
    )
    if (confirmed := document["confirmed"]) is not None and confirmed["mean"] is not None:
        mean, seeds = show(confirmed["mean"]), " ".join(map(show, confirmed["values"]))
        print_all(f"confirmed   mean {mean} over fresh seeds ({seeds}), which decided")


def _pareto_table(sweep: Sweep, document: Mapping[str, Any]) -> None:
    """The trials that no other beats in every metric; nothing with a single metric."""
    front = document.get("pareto_front")
    if not front:
        return
    table = _trials_table("Pareto front", sweep, ("trial",), ())
    for trial in front:
        chosen = searched(sweep, trial["config"])
        settings = " ".join(f"{name}={show(value)}" for name, value in chosen.items())
        table.add_row(str(trial["trial"]), *map(show, trial["values"].values()), settings)
    print_all(table)


def champion_table(document: Mapping[str, Any]) -> None:
    """How each seed did, the champion, and whether it is better than the default."""
    title = (
        f"sweep {document['sweep']}, trial {document['trial']} "
        f"({document['metric']} {document['trial_value']:.4f} in the sweep), retrained"
    )
    print_all(_seeds_table(title, document["metric"], document["seeds"]))
    if document["default"]:
        print_all(_seeds_table("the default", document["metric"], document["default"]["seeds"]))
    if document["verdict"]:
        print_all(document["verdict"])
    if reads := document["test_reads_before"]:
        numbers = ", ".join(map(str, document["test_read_for_trials"]))
        print_all(
            f"the test split had been read {'once' if reads == 1 else f'{reads} times'} before, "
            f"to retrain trial{'s' if reads > 1 else ''} {numbers}: choices made since then may "
            "depend on it"
        )
    print_all(f"champion    seed {document['champion_seed']}, {near(document['checkpoint'])}")
    if document["model_uri"]:
        print_all(f"registered  {document['model_uri']}")
        print_next(f"predict {document['model_uri']} FILE…")


def _seeds_table(title: str, metric: str, runs: Sequence[Mapping[str, Any]]) -> Table:
    """The metric of the search and those on the test split, for each seed and over all seeds.

    Each metric is a row: a task may have a dozen of them, and a terminal may be narrow.
    """
    measured = {metric: [run[metric] for run in runs]}
    for name in runs[0]["test"] or ():
        measured[f"test {name}"] = [run["test"][name] for run in runs]
    each = runs if len(runs) <= _MOST_SEED_COLUMNS else ()
    of_all = ("mean", "deviation") if len(runs) > 1 else ()
    table = make_table(title, "", *(f"seed {run['seed']}" for run in each), *of_all)
    for name, values in measured.items():
        cells = values[: len(each)]
        if of_all:
            cells = [*cells, statistics.fmean(values), statistics.stdev(values)]
        table.add_row(name, *(f"{value:.4f}" for value in cells))
    return table


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One row for each input."""
    table = make_table("", *(name.replace("_", " ") for name in rows[0]) if rows else ())
    for row in rows:
        table.add_row(*(_cell_of(value) for value in row.values()))
    print_all(table)


def _cell_of(value: Any) -> str:
    """A value of an answer: a number, a text, a line for each of several objects, or JSON."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        lines = (", ".join(f"{k} {_cell_of(v)}" for k, v in each.items()) for each in value)
        return "\n".join(lines) or "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
