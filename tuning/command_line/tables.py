"""What commands print for people, on stdout."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from search_spaces.domains import SearchSpace
from tuning.after.results import progress_line, searched
from tuning.record.sweep import Sweep, seen_from_here
from tuning.search.study_storage import study_address
from tuning.storage.disk import show_bytes

if TYPE_CHECKING:
    from tuning.session.runner import SweepResult


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        min_width=len(title),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _trials_table(title: str, sweep: Sweep, before: Sequence[str], after: Sequence[str]) -> Table:
    """A column for each objective, as narrow as the parts of its name; what was chosen last."""
    metrics = [name.replace("_", "_\n") for name in sweep.objectives]
    table = _table(title, *before, *metrics, *after)
    table.add_column("configuration", overflow="fold", ratio=1)
    return table


def _print(*things: Any) -> None:
    console = Console(highlight=False, markup=False)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))


def show(value: Any) -> str:
    """A value in a table: numbers in four digits, None as a dash."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings_table(title: str, values: Mapping[str, Any]) -> Table:
    table = _table(title, "setting", "value")
    for name, value in values.items():
        table.add_row(name, show(value))
    return table


def sweep_report(sweep: Sweep, result: SweepResult) -> None:
    """The best configuration, where everything lies, and what to type next."""
    summary = result.summary
    counts = ", ".join(f"{count} {state}" for state, count in summary["trials"].items())
    _print(f"sweep {sweep.name}: {counts}, in {summary['wall_seconds']:.0f} s")
    _print(f"ended because {summary['ended_because']}")
    best = summary["best"]
    if best is not None:
        _confirmed_table(sweep, summary["confirmed"])
        title = f"best: trial {best['trial']}, {sweep.metric} {best['value']:.4f}"
        _print(_settings_table(title, searched(sweep, best["config"])))
    _pareto_table(sweep, summary)
    _print(
        f"folder      {_near(sweep.place)}",
        f"checkpoint  {_near(best['checkpoint']) if best else '–'}",
        f"MLflow      {sweep.tracking_uri}, experiment {sweep.experiment}",
        f"study       {_near(study_address(sweep))}",
    )
    if not result.mlflow_complete:
        _print(f"MLflow lacks some of it; `thaw resume {sweep.reference}` writes the rest")
    if result.interrupted:
        _print("", f"interrupted; continue with\n  {thaw_command()} resume {sweep.reference}")
    elif best is not None:
        commands = [f"trials {sweep.reference}", f"retrain {sweep.reference} --seeds 3"]
        if sweep.space.task is not None and best["checkpoint"] is not None:
            commands.append(f"predict {shlex.quote(_near(best['checkpoint']))} FILE…")
        _print("", "next", *(f"  {thaw_command()} {command}" for command in [*commands, "ui"]))


def _confirmed_table(sweep: Sweep, confirmed: Sequence[Mapping[str, Any]]) -> None:
    """The best trials with fresh seeds, and in a sentence which of them it is; nothing if none."""
    if not confirmed:
        return
    table = _table(
        f"confirmed: {sweep.metric} with {confirmed[0]['n_seeds']} fresh seeds each",
        "trial", "in the search", "mean", "standard deviation", "each seed",
    )  # fmt: skip
    for row in confirmed:
        numbers = (row["value"], row["mean"], row["standard_deviation"])
        each = " ".join(f"{value:.4f}" for value in row["values"])
        table.add_row(str(row["trial"]), *map(show, numbers), each)
    _print(table)
    best = confirmed[0]
    if best["mean"] is None:
        _print("none completed with every fresh seed, so the search's own values decide")
        return
    sign = -1 if sweep.mode == "max" else 1
    luckiest = min(confirmed, key=lambda row: sign * row["value"])
    agrees = luckiest is best
    _print(
        f"trial {best['trial']} is the best by its mean over fresh seeds"
        + (", as in the search" if agrees else f"; in the search it was trial {luckiest['trial']}")
    )


def thaw_command() -> str:
    """What to type for this program here: under ``uv run`` it is on no path outside of it."""
    return "uv run thaw" if "UV_RUN_RECURSION_DEPTH" in os.environ else "thaw"


def _near(path: str | Path | None) -> str:
    """A path as seen from here; a dash where there is none."""
    return "–" if path is None else seen_from_here(path)


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
    _print(table)


def best_table(sweep: Sweep, document: Mapping[str, Any]) -> None:
    """The best trial: what was searched, then the rest of its configuration."""
    chosen = searched(sweep, document["config"])
    rest = {name: value for name, value in document["config"].items() if name not in chosen}
    title = f"sweep {sweep.name}, trial {document['trial']}: {sweep.metric} {document['value']:.4f}"
    _print(_settings_table(title, chosen), _settings_table("not searched", rest))
    _pareto_table(sweep, document)
    _print(
        f"checkpoint  {_near(document['checkpoint'])}",
        f"MLflow run  {document['mlflow_run_id'] or '–'}",
    )
    if (confirmed := document["confirmed"]) is not None and confirmed["mean"] is not None:
        mean, seeds = show(confirmed["mean"]), " ".join(map(show, confirmed["values"]))
        _print(f"confirmed   mean {mean} over fresh seeds ({seeds}), which decided")


def _pareto_table(sweep: Sweep, document: Mapping[str, Any]) -> None:
    """With several objectives: the completed trials that none beats in all of them."""
    front = document.get("pareto_front")
    if not front:
        return
    table = _trials_table("Pareto front", sweep, ("trial",), ())
    for trial in front:
        chosen = searched(sweep, trial["config"])
        settings = " ".join(f"{name}={show(value)}" for name, value in chosen.items())
        table.add_row(str(trial["trial"]), *map(show, trial["values"].values()), settings)
    _print(table)


def champion_table(document: Mapping[str, Any]) -> None:
    """How each seed did, the champion, and whether it is better than the default."""
    metric = document["metric"]
    tested = document["test"] is not None
    names = [f"test {name}" for name in document["test"]] if tested else []
    table = _table(
        f"sweep {document['sweep']}, trial {document['trial']} "
        f"({metric} {document['trial_value']:.4f} in the sweep), retrained",
        "seed",
        metric,
        *names,
    )
    default = document["default"]["seeds"] if document["default"] else []
    for name, rows in (("", document["seeds"]), ("default, ", default)):
        for row in rows:
            test = [f"{value:.4f}" for value in row["test"].values()] if row["test"] else []
            table.add_row(f"{name}{row['seed']}", f"{row[metric]:.4f}", *test)
        if name == "" and len(rows) > 1:
            for label in ("mean", "standard_deviation"):
                test = [f"{v:.4f}" for v in document[f"test_{label}"].values()] if tested else []
                table.add_row(label.replace("_", " "), f"{document[label]:.4f}", *test)
    _print(table)
    if document["verdict"]:
        _print(document["verdict"])
    if reads := document["test_reads_before"]:
        numbers = ", ".join(map(str, document["test_read_for_trials"]))
        _print(
            f"the test split had been read {'once' if reads == 1 else f'{reads} times'} before, "
            f"to retrain trial{'s' if reads > 1 else ''} {numbers}: a choice made since may owe to "
            "what it said"
        )
    _print(f"champion    seed {document['champion_seed']}, {_near(document['checkpoint'])}")
    if document["model_uri"]:
        _print(
            f"registered  {document['model_uri']}",
            "",
            "next",
            f"  {thaw_command()} predict {document['model_uri']} FILE…",
        )


def submitted_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The sweeps that were submitted to a cluster."""
    table = _table("submitted sweeps", "sweep", "state", "started", "ended")
    for row in rows:
        table.add_row(row["sweep"], row["state"], row["started"] or "–", row["ended"] or "–")
    _print(table)


def sweep_status(document: Mapping[str, Any]) -> None:
    """How a submitted sweep stands."""
    summary = document["summary"]
    progress = "" if summary is None else f": {progress_line(summary)}"
    _print(f"sweep {document['sweep']} is {document['state']}{progress}")
    for name, what in (("driver_restarts", "its driver"), ("job_restarts", "its job")):
        if document[name]:
            times = "once" if document[name] == 1 else f"{document[name]} times"
            _print(f"{what} was lost and started again {times}")
    _print(*document["last_lines"])
    if summary is None:
        return
    if document["state"] not in ("pending", "running"):
        _print(f"ended because {summary['ended_because']}")
    if (best := summary["best"]) is not None:
        config = {name: best["config"].get(name) for name in summary["searched"]}
        values = {name: value for name, value in config.items() if value is not None}
        title = f"best: trial {best['trial']}, {summary['metric']} {best['value']:.4f}"
        _print(_settings_table(title, values))
    mlflow = summary["mlflow"]
    _print(
        f"folder      {summary['folder']}, on the cluster",
        f"MLflow      {mlflow['tracking_uri']}, experiment {mlflow['experiment']}",
    )


def fetched_table(document: Mapping[str, Any]) -> None:
    """What was fetched of a submitted sweep, and what can be done with it here."""
    folder, checkpoint = _near(document["folder"]), document["checkpoint"]
    _print(f"fetched sweep {document['sweep']}, {show_bytes(document['bytes'])}, to {folder}")
    commands = [f"trials {folder}", f"best {folder}"]
    if checkpoint is not None:
        commands.append(f"predict {_near(checkpoint)} FILE…")
    else:
        _print("without a checkpoint: none of its best trial is kept")
    _print("", "next", *(f"  {thaw_command()} {command}" for command in commands))


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per input."""
    table = _table("", *(name.replace("_", " ") for name in rows[0]) if rows else ())
    for row in rows:
        table.add_row(*(_cell_of(value) for value in row.values()))
    _print(table)


def _cell_of(value: Any) -> str:
    """A value of an answer: a number, a text, a line for each of several objects, or JSON."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        lines = (", ".join(f"{k} {_cell_of(v)}" for k, v in each.items()) for each in value)
        return "\n".join(lines) or "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def spaces_table(found: Sequence[SearchSpace]) -> None:
    """The built-in spaces."""
    table = _table("search spaces", "name", "task", "what it searches")
    for space in found:
        table.add_row(space.name, space.task or "–", space.description)
    _print(table, "thaw spaces NAME shows one; thaw sweep also takes a path to a file of your own")


def space_table(space: SearchSpace) -> None:
    """A space's domains, fixed settings and starting points."""
    table = _table(f"{space.name}: {space.description}", "setting", "domain", "only when")
    for name, domain in space.domains.items():
        condition = ", ".join(
            f"{parent} is {' or '.join(map(str, wanted)) if isinstance(wanted, tuple) else wanted}"
            for parent, wanted in (domain.when or {}).items()
        )
        table.add_row(name, f"{type(domain).__name__} {domain.describe()}", condition)
    _print(table, _settings_table("fixed", space.fixed))
    for number, point in enumerate(space.starting_points, start=1):
        _print(
            f"starting point {number}: "
            + ", ".join(f"{name}={show(value)}" for name, value in point.items())
        )


def tasks_table() -> None:
    """The tasks, and the settings of each."""
    from trainables.tasks.table import TASKS

    for name, row in TASKS.items():
        table = _table(f"{name}: {row.summary}", "setting", "default", "type")
        for field_name, field in row.config_type.model_fields.items():
            kind = (
                str(field.annotation)
                .replace("typing.", "")
                .removeprefix("<class '")
                .removesuffix("'>")
            )
            default = "required" if field.is_required() else show(field.default)
            table.add_row(field_name, default, kind)
        _print(table)


def dry_run_tables(sweep: Sweep, samples: Sequence[Mapping[str, Any]]) -> None:
    """What would be run, and five configurations as the sweep might try them."""
    shown = {
        name: getattr(sweep, name)
        for name in (
            "name", "folder", "task", "metric", "mode", "trials", "time_budget_seconds",
            "gpu_hours", "target", "patience", "confirm", "confirm_seeds", "searcher",
            "cost_aware", "scheduler", "engine", "n_workers", "strategy", "cpus_per_trial",
            "gpus_per_trial", "concurrency", "seed", "tracking_uri", "experiment", "cache_folder",
        )
    }  # fmt: skip
    shown["folder"] = sweep.place
    _print(_settings_table("sweep (nothing was started)", shown))
    if sweep.warm_start:
        _print(sweep.warm_start["note"])
    space_table(sweep.space)
    table = _table("five configurations", "setting", *map(str, range(1, len(samples) + 1)))
    for name in sweep.space.domains:
        table.add_row(name, *(show(values.get(name)) for values in samples))
    _print(table)
