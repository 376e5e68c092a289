"""The command line. Imports nothing heavy until it must, so that help and errors come at once."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from tuning.command_line import cluster_commands, doctor_commands
from tuning.command_line.doctor_commands import ClusterOption, show_cluster_ui

if TYPE_CHECKING:
    from tuning.before_start.options import SweepOptions
    from tuning.record.sweep import Sweep

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
_USAGE_ERROR: Any = typer.BadParameter.__base__  # click's or typer's own, as versions differ

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find the best way to fine-tune a PyTorch model, and prove it.",
)

SweepsFolder = Annotated[
    str,
    typer.Option(
        "--sweeps-folder",
        envvar="THAW_SWEEPS_FOLDER",
        show_envvar=False,
        help="Where sweeps keep their folders: a path, s3://BUCKET/PREFIX, gs://…; default: "
        "$THAW_SWEEPS_FOLDER, else sweeps here.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", help="MLflow; $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here."
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")
]
SweepName = Annotated[
    str, typer.Argument(help="A sweep's name, folder or URI.", show_default=False)
]


def console() -> NoReturn:
    """``main`` of a process that is no one else's, which then ends at once.

    Taking all of torch, Ray and MLflow apart, object by object, takes Python two seconds.
    """
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def main() -> None:
    """Run the command line; wrong input ends with 2 and one clear message, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    with _wrong_input_exits():
        code = app(standalone_mode=False)  # else typer frames its messages and wraps them
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    if code:
        sys.exit(code)


def _interrupt(signal_number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the orderly end short
    raise KeyboardInterrupt


@contextmanager
def _wrong_input_exits() -> Iterator[None]:
    from search_spaces.domains import SpaceError

    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except _USAGE_ERROR as error:
        print(_explain_usage(error), end="", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except (BrokenPipeError, SystemExit) as error:
        # The reader of our output, such as `head`, has had enough; typer and rich exit with 1.
        if BrokenPipeError not in (type(error), type(error.__context__)):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)
    except SpaceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except (ValueError, RuntimeError) as error:
        from trainables.errors import InputError, RunFailed

        if not isinstance(error, (InputError, RunFailed)):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT if isinstance(error, InputError) else FAILED)


def _explain_usage(error: Any) -> str:
    """What typer has found wrong with a command line, worded as the rest of our messages are."""
    from trainables.config import rule

    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":  # typer has printed the help instead
        return ""
    problems = getattr(error.__cause__, "errors", None)  # of pydantic, which converts for typer
    if problems is None:
        message = error.format_message()
    else:
        problem = problems()[0]
        message = f"{error.param.opts[0]} = {problem['input']!r}: must be {rule(problem)}"
    hint = "" if context is None else f"see {context.command_path} --help\n"
    return f"error: {message}\n{hint}"


def _seconds(text: str) -> float:
    """A duration such as 90, 90s, 10m or 1.5h."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be a duration such as 90s, 10m or 1.5h") from None


def _gpus(text: str) -> float | str:
    """A number of GPUs, or auto."""
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be a number, such as 0.5, or auto") from None


@app.command()
def sweep(
    space: Annotated[str, typer.Argument(help="A built-in search space, or a .py file.")],
    name: Annotated[
        str | None, typer.Option(help="Of the sweep; default: space, date, time.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: fix a setting. May be repeated."),
    ] = None,
    trials: Annotated[int, typer.Option(help="How many configurations to try.")] = 12,
    time_budget: Annotated[
        float | None,
        typer.Option(parser=_seconds, metavar="DURATION", help="Stop after 90s, 10m, 1.5h …"),
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(help="Stop after so many hours × GPUs held, over all trials.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Stop once a trial's metric reaches this.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop when so many trials in a row brought nothing better.")
    ] = None,
    confirm: Annotated[
        int, typer.Option(help="At the end run so many of the best again, with fresh seeds.")
    ] = 0,
    confirm_seeds: Annotated[
        int, typer.Option(help="Fresh seeds for each; their mean decides which is best.")
    ] = 3,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare trials by; NAME, NAME:max or NAME:min. If repeated, stopping and "
            "`best` go by the first."
        ),
    ] = None,
    searcher: Annotated[
        str | None,
        typer.Option(
            help="curves (default: learns from whole learning curves), tpe (default with several "
            "metrics), gp, cmaes, nsga2, nsga3, qmc, random, grid, or FILE.py:NAME of your own."
        ),
    ] = None,
    scheduler: Annotated[
        str,
        typer.Option(
            help="freeze-thaw pauses poor trials and lets the promising go on; asha, hyperband and "
            "median stop them for good; none stops nothing."
        ),
    ] = "freeze-thaw",
    cost_aware: Annotated[
        bool,
        typer.Option(
            "--cost-aware", help="Weigh the time a trial takes, learned from those that ran."
        ),
    ] = False,
    concurrency: Annotated[int | None, typer.Option(help="Trials at once, at most.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes, each with its GPU, that train one trial together.")
    ] = 1,
    strategy: Annotated[
        str,
        typer.Option(
            help="How they do: ddp, each has the whole model; fsdp, each has a share of it."
        ),
    ] = "ddp",
    cpus_per_trial: Annotated[
        float | None, typer.Option(help="With several workers: for each of them.")
    ] = None,
    gpus_per_trial: Annotated[
        Any,
        typer.Option(
            parser=_gpus,
            metavar="NUMBER|auto",
            help="May be a fraction; auto: as many trials share a GPU as their memory allows. With "
            "several workers: for each of them, 0 or 1.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search and of every training.")] = 0,
    engine: Annotated[str, typer.Option(help="ray, or inprocess: no Ray, one by one.")] = "ray",
    keep_checkpoints: Annotated[
        int, typer.Option(help="Best checkpoints of the sweep to keep.")
    ] = 3,
    checkpoint_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Room for all of them, such as 20GB; fewer are kept."),
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Give up after more failed trials than this.")
    ] = None,
    epoch_timeout: Annotated[
        float | None,
        typer.Option(
            parser=_seconds, metavar="DURATION", help="A trial silent for longer has failed."
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow experiment; default: the space's name.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster.")] = None,
    prefix_cache: Annotated[
        str,
        typer.Option(help="Room for what frozen blocks output: auto, off, or such as 20GB."),
    ] = "auto",
    storage: Annotated[
        str | None,
        typer.Option(
            help="Of the Optuna study: sqlite:///… or postgresql://…; default: a journal in the "
            "sweep's folder."
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="SWEEP|URL#STUDY", help="Tell the searcher an earlier one's finished trials."
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    sweeps_folder: SweepsFolder = "sweeps",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Resolve, check, show five configurations; start nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search a space for the best configuration."""
    options = sweep_options(locals())
    from tuning.before_start.options import resolve

    with stdout_for_json_only():  # a user's file may print
        resolved = resolve(options)
    if dry_run:
        show_dry_run(resolved, as_json)
        return
    _run(resolved, as_json)


def sweep_options(values: Mapping[str, Any]) -> SweepOptions:
    """What ``values`` say about a sweep, by the names of the parameters of `thaw sweep`."""
    from dataclasses import fields

    from tuning.before_start.options import SweepOptions

    renamed = {"time_budget": "time_budget_seconds", "epoch_timeout": "epoch_timeout_seconds"}
    metrics = values["metric"] or [None]
    known = {field.name for field in fields(SweepOptions)}
    given = {renamed.get(name, name): value for name, value in values.items()}
    given |= {"settings": values["settings"] or (), "metric": metrics[0]}
    given["more_metrics"] = metrics[1:]
    return SweepOptions(**{name: value for name, value in given.items() if name in known})


@app.command()
def resume(
    name: SweepName,
    trials: Annotated[int | None, typer.Option(help="How many in all; default: as before.")] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(
            parser=_seconds, metavar="DURATION", help="In all, earlier sittings included."
        ),
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(help="In all, earlier sittings included.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="Another value to stop at.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Another number of trials without a better value.")
    ] = None,
    confirm: Annotated[
        int | None, typer.Option(help="Run so many of the best again, with fresh seeds.")
    ] = None,
    confirm_seeds: Annotated[int | None, typer.Option(help="Fresh seeds for each.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster; local: this machine.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Go on in this search space: wider or narrower, by name or .py file."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: search this setting no longer. May be repeated."),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although code or data have changed.")
    ] = False,
    sweeps_folder: SweepsFolder = "sweeps",
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted sweep, or add trials to a finished one."""
    from tuning.before_start.resume_options import change_space, extend
    from tuning.storage.saved_sweeps import open_sweep

    with stdout_for_json_only():  # a user's file may print
        found = change_space(open_sweep(name, sweeps_folder), space, settings or ())
    extended = extend(
        found,
        trials=trials,
        time_budget_seconds=time_budget,
        address=address,
        gpu_hours=gpu_hours,
        target=target,
        patience=patience,
        confirm=confirm,
        confirm_seeds=confirm_seeds,
    )
    _run(extended, as_json, accept_changes)


@app.command()
def trials(
    name: SweepName,
    sweeps_folder: SweepsFolder = "sweeps",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
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
    if as_json:
        print(json.dumps(rows, indent=1))
    elif as_csv:
        print(to_csv(rows), end="")
    else:
        trials_table(found, rows)


@app.command()
def best(name: SweepName, sweeps_folder: SweepsFolder = "sweeps", as_json: AsJson = False) -> None:
    """Show a sweep's best configuration; with several metrics, those that none beats in all."""
    from tuning.command_line.tables import best_table
    from tuning.record.events import read_history
    from tuning.session.summary import describe_best
    from tuning.storage.saved_sweeps import open_sweep

    found = open_sweep(name, sweeps_folder)
    document = describe_best(found, read_history(found.folder))
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        best_table(found, document)


@app.command()
def retrain(
    name: SweepName,
    trial: Annotated[int | None, typer.Option(help="Another trial than the best.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that train together; default: as many as the trials had."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="How many times to train: 1 repeats the trial, more take fresh seeds each."
        ),
    ] = 1,
    no_baseline: Annotated[
        bool,
        typer.Option(
            "--no-baseline",
            help="Do not train the default configuration too, as two seeds or more do.",
        ),
    ] = False,
    sweeps_folder: SweepsFolder = "sweeps",
    as_json: AsJson = False,
) -> None:
    """Train the best configuration anew, test it once, register it as champion."""
    from trainables.errors import RunFailed
    from tuning.after.retrain import retrain as run
    from tuning.command_line.live_view import make_view
    from tuning.command_line.tables import champion_table
    from tuning.record.events import Record
    from tuning.storage.saved_sweeps import open_sweep
    from tuning.storage.working_copy import at_home

    found, view = open_sweep(name, sweeps_folder), make_view()
    with (
        stdout_for_json_only(),
        at_home(found.name, found.home, found.folder, view.say) as uploads,
    ):
        uploads.start()
        record = Record(found.folder)
        document = run(
            found,
            record,
            trial_number=trial,
            n_workers=workers,
            n_seeds=seeds,
            view=view,
            baseline=not no_baseline,
        )
        record.close()
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        champion_table(document)
    if document["failure"]:
        raise RunFailed(f"{document['failure']}; it is in {document['checkpoint']}")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, or models:/NAME@champion.")],
    inputs: Annotated[
        list[str], typer.Argument(help="Image files, texts, or files of one text a line.")
    ],
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Say what a model makes of new inputs: classes, numbers, entities, or how a text goes on."""
    from tuning.after.predict import predict as run
    from tuning.command_line.tables import predictions_table

    with stdout_for_json_only():
        rows = run(model, inputs, tracking_uri)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        predictions_table(rows)


@app.command()
def ui(
    tracking_uri: TrackingUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    cluster: ClusterOption = None,
) -> None:
    """Open the MLflow UI on this machine, for this machine: of its own runs, or a cluster's."""
    if cluster is not None:
        if tracking_uri is not None:
            raise typer.BadParameter("--cluster and --tracking-uri can not be combined")
        show_cluster_ui(cluster, port)
        return
    from tuning.storage.addresses import resolve_tracking_uri

    uri = resolve_tracking_uri(tracking_uri)
    command = [
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    # Without it the server also starts several processes for jobs that nothing here asks for.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    print(f"http://127.0.0.1:{port} shows {uri}; stop it with Ctrl-C", flush=True)
    os.execvp(sys.executable, [sys.executable, "-m", *command])


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="Show this one's domains.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the search spaces, or one's domains."""
    from tuning.before_start.spaces import load_space, space_names
    from tuning.command_line.tables import space_table, spaces_table

    if name is not None:
        space = load_space(name).space
        print(json.dumps(space.to_json(), indent=1)) if as_json else space_table(space)
        return
    found = [load_space(each).space for each in space_names()]
    if as_json:
        print(json.dumps([space.to_json() for space in found], indent=1))
    else:
        spaces_table(found)


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks and their settings."""
    from trainables.tasks.table import TASKS
    from tuning.command_line.tables import tasks_table

    if as_json:
        print(
            json.dumps({name: row.config_type.model_json_schema() for name, row in TASKS.items()})
        )
    else:
        tasks_table()


submit = app.command()(cluster_commands.submit_command(sweep, resume))
status = app.command()(cluster_commands.status)
logs = app.command()(cluster_commands.logs)
stop = app.command()(cluster_commands.stop)
fetch = app.command()(cluster_commands.fetch)
doctor = app.command()(doctor_commands.doctor)


def _run(resolved: Sweep, as_json: bool, accept_changes: bool = False) -> None:
    from tuning.before_start.space_checks import prepare_data
    from tuning.command_line.live_view import make_view
    from tuning.command_line.tables import sweep_report

    view = make_view()
    with stdout_for_json_only():
        resolved, notes = prepare_data(resolved)
        for note in notes:
            view.say(note)
        from tuning.session.runner import run_sweep

        result = run_sweep(resolved, view, accept_changes=accept_changes)
    if as_json:
        print(json.dumps(result.summary, indent=1))
    else:
        sweep_report(resolved, result)
    if result.interrupted:
        sys.exit(INTERRUPTED)
    if result.summary["best"] is None or result.too_many_failures:
        sys.exit(FAILED)


def show_dry_run(resolved: Sweep, as_json: bool) -> None:
    """Show a resolved sweep, and five configurations as it might try them."""
    import random

    from tuning.command_line.tables import dry_run_tables
    from tuning.record.sweep import describe

    generator = random.Random(resolved.seed)
    samples = [resolved.configuration(resolved.space.sample(generator)) for _ in range(5)]
    if as_json:
        print(json.dumps({"sweep": describe(resolved), "samples": samples}, indent=1))
    else:
        dry_run_tables(resolved, samples)


@contextmanager
def stdout_for_json_only() -> Iterator[None]:
    """Send what libraries print to stderr meanwhile, so that stdout holds only the result."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
