"""`thaw submit`: what a sweep takes along to a cluster, and how it is followed there."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuning.command_line.parameters import (
    INTERRUPTED,
    from_command_line,
    stdout_for_json_only,
)
from tuning.record.option_checks import read_values
from tuning.record.options import RESUMABLE

if TYPE_CHECKING:
    from tuning.clusters.jobs import Submitted
    from tuning.clusters.package import Package
    from tuning.clusters.submission import Cluster

_FAILED_CODES = {"failed": 1, "lost": 1, "wrong input": 2, "stopped": INTERRUPTED}

ClusterFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        metavar="FILE",
        help="The cluster's file for `ray up`. Default: cluster.yaml in this folder.",
    ),
]
DashboardAddress = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="Its dashboard's address, instead of --cluster."),
]

_NOT_SENT = ("address", "sweeps_folder", "dry_run", "as_json")  # parameters of `thaw sweep`


def submit_command(sweep: Callable[..., None], resume: Callable[..., None]) -> Callable[..., None]:
    """`thaw submit`, whose options are those of the commands ``sweep`` and ``resume``, and its own.

    The parser of command lines looks at a function's signature; this one is put together.
    """
    of_sweep = dict(inspect.signature(sweep, eval_str=True).parameters)
    of_resume = inspect.signature(resume, eval_str=True).parameters
    own = dict(inspect.signature(_own_options, eval_str=True).parameters)
    of_both = {**of_sweep, "accept_changes": of_resume["accept_changes"]}
    own = {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items()}
    parameters = [*own.values(), *(p for name, p in of_both.items() if name not in own)]

    def submit(context: typer.Context, **values: Any) -> None:
        """Run a sweep on a cluster. It goes on when this machine is switched off.

        It takes every option of `thaw sweep`. If SPACE is a file of yours, the
        modules that it imports from its folder are sent along, and small data too.
        The commands status, logs, stop and fetch take the sweep's name;
        `thaw submit --resume NAME` continues it on the cluster.
        """
        given = {n for n in values if _is_given(context, n)}
        _submit(values, given, _parameters_of(context, "sweep"), _parameters_of(context, "resume"))

    submit.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return submit


def _own_options(
    context: typer.Context,
    space: Annotated[
        str | None,
        typer.Argument(help="A built-in search space or a .py file; with --resume, a changed one."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="NAME", help="Continue a sweep that was submitted before.")
    ] = None,
    send: Annotated[
        list[Path] | None,
        typer.Option(help="A further file or folder that training reads. May be repeated."),
    ] = None,
    cluster: ClusterFile = None,
    address: DashboardAddress = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the sweep as it runs. Ctrl-C leaves it running.")
    ] = False,
) -> None:
    """The options that are not those of ``sweep``, or differ from them."""


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameters_of(context: typer.Context, command: str) -> list[Any]:
    assert context.parent is not None
    commands: Any = context.parent.command
    return list(commands.commands[command].params)


def _submit(
    values: Mapping[str, Any], given: Collection[str], of_sweep: list[Any], of_resume: list[Any]
) -> None:
    from trainables.errors import InputError

    if values["resume"] is not None:
        submitted, package = _continued(values, given, of_resume)
    elif values["space"] is None:
        raise InputError("SPACE is missing: give a built-in one, a .py file, or --resume NAME")
    elif "accept_changes" in given:
        raise InputError("--accept-changes: is for --resume NAME only; a new sweep has no changes")
    else:
        resolved = _resolved(values)
        submitted, package = _described(values, given, of_sweep, resolved)
        if values["dry_run"]:
            from tuning.command_line.sweep_commands import show_dry_run

            folder = Path(submitted.sweeps_folder or "~/sweeps") / submitted.name
            note = "the cluster reads the data when the sweep starts"
            show_dry_run(replace(resolved, folder=folder), [note], values["as_json"])
            return
    from tuning.clusters.submission import reach

    with reach(values["cluster"], values["address"]) as cluster:
        document = _send(cluster, submitted, package)
        if values["follow"]:
            _follow(cluster, submitted.name, values["as_json"])
            return
    if values["as_json"]:
        print(json.dumps(document, indent=1))
    else:
        _show_submitted(document, cluster.option)


def _resolved(values: Mapping[str, Any]) -> Any:
    """The sweep, checked as far as this machine can."""
    from tuning.before_start.options import resolve

    with stdout_for_json_only():  # a user's file may print
        return resolve(from_command_line(values), elsewhere=True)


def _described(
    values: Mapping[str, Any], given: Collection[str], of_sweep: list[Any], resolved: Any
) -> tuple[Submitted, Package]:
    """What is sent to begin a sweep."""
    from tuning.clusters.jobs import Submitted
    from tuning.clusters.sending import as_arguments, pack
    from tuning.user_code.versions import installed_versions

    package = _package(values)
    there = {**pack(values, resolved.space, package), "name": resolved.name}
    package.check_size()
    names = {*given, "name", *(("settings",) if there["settings"] else ())} - {*_NOT_SENT}
    submitted = Submitted(
        name=resolved.name,
        arguments=as_arguments(of_sweep, there, names),
        sweeps_folder=_sweeps_folder(values, given),
        sends_data=package.has_data,
        versions=installed_versions(),
    )
    return submitted, package


def _continued(
    values: Mapping[str, Any], given: Collection[str], of_resume: list[Any]
) -> tuple[Submitted, Package]:
    """What is sent to go on with a sweep.

    Raises:
        InputError: an option is not one that a sweep can be continued with.
    """
    from trainables.errors import InputError
    from tuning.before_start.resume_options import check_changes
    from tuning.before_start.spaces import load_space
    from tuning.clusters.jobs import Submitted
    from tuning.clusters.sending import as_arguments
    from tuning.user_code.versions import installed_versions

    own = {*inspect.signature(_own_options).parameters, "as_json"}
    known = {parameter.name: parameter for parameter in of_resume if parameter.name != "name"}
    if wrong := sorted(set(given) - known.keys() - own):
        names = sorted(p.opts[-1] for name, p in known.items() if name not in _NOT_SENT)
        raise InputError(
            f"--{wrong[0].replace('_', '-')}: can not be given with --resume; valid: "
            f"{', '.join(names)}"
        )
    check_changes(read_values({name: values[name] for name in RESUMABLE if name in given}))
    package = _package(values)
    there = dict(values)
    if values["space"] is not None:
        load_space(values["space"])
        if str(values["space"]).endswith(".py"):
            there["space"] = package.add_code(Path(values["space"]))
    submitted = Submitted(
        name=values["resume"],
        arguments=[],
        resume_arguments=as_arguments(known.values(), there, set(given) - {*_NOT_SENT}),
        sweeps_folder=_sweeps_folder(values, given),
        sends_data=package.has_data,
        versions=installed_versions(),
    )
    return submitted, package


def _sweeps_folder(values: Mapping[str, Any], given: Collection[str]) -> str | None:
    return str(values["sweeps_folder"]) if "sweeps_folder" in given else None


def _package(values: Mapping[str, Any]) -> Package:
    from trainables.data.paths import data_path
    from tuning.clusters.package import Package

    package = Package(Path.cwd())
    for path in values["send"] or ():
        package.add_data(data_path(str(path), "--send"), f"--send {path}")
    return package


def _send(cluster: Cluster, submitted: Submitted, package: Package) -> dict[str, Any]:
    """Compare versions, then send; returns what `--json` prints."""
    from tuning.clusters.submission import check_versions, submit

    note = check_versions(cluster.dashboard)
    if note is not None:
        print(note, file=sys.stderr)
    job = submit(cluster.dashboard, submitted, package)
    return {
        "sweep": submitted.name,
        "job": job,
        "cluster": cluster.option,
        "sent_files": sorted(package.files),
        "sent_bytes": package.n_bytes,
    }


def _show_submitted(document: Mapping[str, Any], option: str) -> None:
    from tuning.storage.disk import show_bytes

    name, n_files = document["sweep"], len(document["sent_files"])
    sent = f", with {n_files} files of {show_bytes(document['sent_bytes'])}" if n_files else ""
    print(f"submitted sweep {name}{sent}")
    show_commands(
        option, f"status {name}", f"logs {name} --follow", f"stop {name}", f"fetch {name}"
    )


def show_commands(option: str, *commands: str) -> None:
    from tuning.command_line.printing import thaw_command

    print("\nnext")
    for command in commands:
        print(f"  {thaw_command()} {command} {option}")


def _follow(cluster: Cluster, name: str, as_json: bool) -> None:
    """Show a sweep until it has ended, and exit as it did."""
    from tuning.clusters.follow import Follower
    from tuning.clusters.sent_sweeps import describe_sweep
    from tuning.command_line.cluster_tables import sweep_status
    from tuning.command_line.live_view import make_view
    from tuning.command_line.printing import thaw_command

    print(f"submitted sweep {name}; Ctrl-C leaves it running", file=sys.stderr)
    try:
        Follower(cluster.dashboard, name, make_view()).follow()
    except KeyboardInterrupt:
        print(
            f"\nsweep {name} goes on; come back with\n"
            f"  {thaw_command()} logs {name} --follow {cluster.option}",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    document = describe_sweep(cluster.dashboard, name)
    if as_json:
        print(json.dumps(document, indent=1))
    else:
        sweep_status(document)
        show_commands(cluster.option, f"fetch {name}")
    if code := _FAILED_CODES.get(document["state"]):
        sys.exit(code)
