"""The commands for sweeps on this machine: sweep, resume, trials, best, retrain and predict."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuning.command_line.parameters import (
    FAILED,
    INTERRUPTED,
    AcceptChanges,
    AsJson,
    DryRun,
    Space,
    SweepName,
    SweepsFolder,
    TrackingUri,
    from_command_line,
    show,
    stdout_for_json_only,
    with_resume_options,
    with_sweep_options,
)

if TYPE_CHECKING:
    from tuning.record.sweep import Sweep


@with_sweep_options
def sweep(space: Space, dry_run: DryRun = False, as_json: AsJson = False, **options: Any) -> None:
    """Search a space for the best configuration."""
    from tuning.before_start.options import resolve
    from tuning.before_start.space_checks import prepare_data

    with stdout_for_json_only():  # a user's file may print
        resolved = resolve(from_command_line({**options, "space": space}))
    if not dry_run:
        _run(resolved, as_json)
        return
    with stdout_for_json_only():
        resolved, notes = prepare_data(resolved)
    show_dry_run(resolved, notes, as_json)


@with_resume_options
def resume(
    name: SweepName,
    accept_changes: AcceptChanges = False,
    sweeps_folder: SweepsFolder = "sweeps",
    as_json: AsJson = False,
    **changes: Any,
) -> None:
    """Continue an interrupted sweep, or add trials to a finished one."""
    from tuning.before_start.resume_options import change_options
    from tuning.record.option_checks import read_values
    from tuning.storage.saved_sweeps import open_sweep

    with stdout_for_json_only():  # a user's file may print
        changed = change_options(open_sweep(name, sweeps_folder), read_values(changes))
    _run(changed, as_json, accept_changes)


def _run(resolved: Sweep, as_json: bool, accept_changes: bool = False) -> None:
    from tuning.command_line.live_view import make_view
    from tuning.command_line.tables import sweep_report
    from tuning.session.sitting import start

    with stdout_for_json_only():
        resolved, result = start(resolved, make_view(), accept_changes=accept_changes)
    show(result.summary, as_json, lambda _: sweep_report(resolved, result))
    if result.interrupted:
        sys.exit(INTERRUPTED)
    if result.has_failed:
        sys.exit(FAILED)


def show_dry_run(resolved: Sweep, notes: Sequence[str], as_json: bool) -> None:
    """Show a resolved sweep, its data, and five configurations as it might try them."""
    from tuning.command_line.space_tables import dry_run_tables
    from tuning.record.sweep import describe

    generator = random.Random(resolved.seed)
    samples = [resolved.configuration(resolved.space.sample(generator)) for _ in range(5)]
    document = {"sweep": describe(resolved), "data": list(notes), "samples": samples}
    show(document, as_json, lambda _: dry_run_tables(resolved, notes, samples))


def trials(
    name: SweepName,
    sweeps_folder: SweepsFolder = "sweeps",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV and nothing else.")] = False,
) -> None:
    """List a sweep's trials."""
    from tuning.after.results import to_csv, trial_rows
    from tuning.command_line.tables import trials_table
    from tuning.record.events import read_history
    from tuning.storage.saved_sweeps import open_sweep

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv can not be combined")
    found = open_sweep(name, sweeps_folder)
    rows = trial_rows(found, read_history(found.folder))
    if as_csv:
        print(to_csv(rows), end="")
    else:
        show(rows, as_json, partial(trials_table, found))


def best(name: SweepName, sweeps_folder: SweepsFolder = "sweeps", as_json: AsJson = False) -> None:
    """Show a sweep's best configuration; with several metrics, the Pareto front too."""
    from tuning.command_line.tables import best_table
    from tuning.record.events import read_history
    from tuning.session.summary import describe_best
    from tuning.storage.saved_sweeps import open_sweep

    found = open_sweep(name, sweeps_folder)
    document = describe_best(found, read_history(found.folder))
    show(document, as_json, partial(best_table, found))


TrialNumber = Annotated[
    int | None, typer.Option("--trial", help="Number of the trial to retrain; default: the best.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes that train together; default: as before.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", help="Trainings: one repeats the trial, more take fresh seeds.")
]
NoBaseline = Annotated[
    bool, typer.Option("--no-baseline", help="Do not train the default configuration as well.")
]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", help="Engine: ray or inprocess; default: that of the sweep."),
]


def retrain(
    name: SweepName,
    trial: TrialNumber = None,
    workers: Workers = None,
    seeds: Seeds = 1,
    no_baseline: NoBaseline = False,
    engine: EngineName = None,
    sweeps_folder: SweepsFolder = "sweeps",
    as_json: AsJson = False,
) -> None:
    """Train the best configuration again, test it once, and register it as the champion.

    If it is killed, the same command goes on where it was.
    """
    from tuning.after.champion import check_logged
    from tuning.after.retrain import retrain as run
    from tuning.command_line.live_view import make_view
    from tuning.command_line.tables import champion_table
    from tuning.storage.saved_sweeps import open_sweep

    found = open_sweep(name, sweeps_folder)
    with stdout_for_json_only():
        document = run(
            found,
            trial_number=trial,
            n_workers=workers,
            n_seeds=seeds,
            baseline=not no_baseline,
            engine=engine,
            view=make_view(),
        )
    show(document, as_json, champion_table)
    check_logged(document)


def predict(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or models:/NAME@champion.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Image files, texts, or files with one text in each line.")
    ],
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Say what a model makes of new inputs: classes, numbers, entities, or how a text goes on."""
    from tuning.after.predict import predict as run
    from tuning.command_line.tables import predictions_table

    with stdout_for_json_only():
        rows = run(model, inputs, tracking_uri)
    show(rows, as_json, predictions_table)
