"""The commands for what came of a sweep: trials, best, retrain and predict."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from tuning.command_line.parameters import (
    AsJson,
    SweepName,
    SweepsFolder,
    TrackingUri,
    show,
    stdout_for_json_only,
)


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
    from trainables.errors import RunFailed
    from tuning.after.retraining import retrain_sweep
    from tuning.command_line.live_view import make_view
    from tuning.command_line.tables import champion_table
    from tuning.storage.saved_sweeps import open_sweep

    found = open_sweep(name, sweeps_folder)
    with stdout_for_json_only():
        document = retrain_sweep(
            found,
            trial_number=trial,
            n_workers=workers,
            n_seeds=seeds,
            baseline=not no_baseline,
            engine=engine,
            view=make_view(),
        )
    show(document, as_json, champion_table)
    if document["failure"]:
        raise RunFailed(f"{document['failure']}; it is in {document['checkpoint']}")


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
