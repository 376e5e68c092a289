"""`thaw submit`: what a sweep takes along to a cluster, and how it is followed there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainables.data.paths import data_path
from trainables.errors import InputError
from tuning.command_line.parameters import (
    INTERRUPTED,
    AcceptChanges,
    AsJson,
    DryRun,
    from_command_line,
    show,
    stdout_for_json_only,
    with_sweep_options,
)
from tuning.command_line.sweep_commands import show_dry_run
from tuning.record.option_checks import read_values
from tuning.storage.disk import show_bytes

if TYPE_CHECKING:
    from tuning.clusters.jobs import Submitted
    from tuning.clusters.package import Package
    from tuning.clusters.tunnel import Reached
    from tuning.record.sweep import Sweep

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
SpaceToSend = Annotated[
    str | None,
    typer.Argument(help="A built-in search space or a .py file; with --resume, a changed one."),
]
SweepToResume = Annotated[
    str | None, typer.Option(metavar="NAME", help="Continue a sweep that was submitted before.")
]
FilesToSend = Annotated[
    list[Path] | None,
    typer.Option(help="A further file or folder that training reads. May be repeated."),
]

_NOT_SENT = ("space", "address", "sweeps_folder")  # among the options that are sent as such


@with_sweep_options
def submit(
    context: typer.Context,
    space: SpaceToSend = None,
    resume: SweepToResume = None,
    send: FilesToSend = None,
    cluster: ClusterFile = None,
    address: DashboardAddress = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the sweep as it runs. Ctrl-C leaves it running.")
    ] = False,
    accept_changes: AcceptChanges = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Run a sweep on a cluster. It goes on when this machine is switched off.

    It takes every option of `thaw sweep`. If SPACE is a file of yours, the
    modules that it imports from its folder are sent along, and small data too.
    The commands status, logs, stop and fetch take the sweep's name;
    `thaw submit --resume NAME` continues it on the cluster.
    """
    values = {**options, "space": space, "address": None}
    given = {name: value for name, value in values.items() if _is_given(context, name)}
    if resume is not None:
        submitted, package = _continued(resume, given, send or (), accept_changes)
    elif accept_changes:
        raise InputError("--accept-changes: is for --resume NAME only; a new sweep has no changes")
    else:
        resolved, submitted, package = _described(values, given, send or ())
        if dry_run:
            folder = Path(submitted.sweeps_folder or "~/sweeps") / submitted.name
            note = "the cluster reads the data when the sweep starts"
            show_dry_run(replace(resolved, folder=folder), [note], as_json)
            return
    _send(submitted, package, cluster, address, follow=follow, as_json=as_json)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE" and name != "address"


def _described(
    values: Mapping[str, Any], given: Mapping[str, Any], send: Sequence[Path]
) -> tuple[Sweep, Submitted, Package]:
    """A new sweep, checked as far as this machine can, and what is sent to begin it."""
    from tuning.before_start.options import resolve
    from tuning.clusters.sending import as_arguments, pack

    if values["space"] is None:
        raise InputError("SPACE is missing: give a built-in one, a .py file, or --resume NAME")
    package = _package(send)
    with stdout_for_json_only():  # a user's file may print
        resolved = resolve(from_command_line(values), elsewhere=True)
    there = pack(given, resolved.space, package)
    package.check_size()
    sent = {n: v for n, v in there.items() if n not in _NOT_SENT} | {"name": resolved.name}
    arguments = [*as_arguments(sent), "--", there["space"]]
    return resolved, _submitted(resolved.name, given, package, arguments), package


def _continued(
    name: str, given: Mapping[str, Any], send: Sequence[Path], accept_changes: bool
) -> tuple[Submitted, Package]:
    """What is sent to go on with a sweep.

    Raises:
        InputError: an option is not one that a sweep can be continued with.
    """
    from tuning.before_start.resume_options import check_changes
    from tuning.before_start.spaces import load_space
    from tuning.clusters.sending import as_arguments

    changes = {n: value for n, value in given.items() if n != "sweeps_folder"}
    check_changes(read_values(changes))
    package = _package(send)
    if (space := given.get("space")) is not None:
        load_space(space)
        if str(space).endswith(".py"):
            changes["space"] = package.add_code(Path(space))
    arguments = [*as_arguments(changes), *(["--accept-changes"] if accept_changes else [])]
    return _submitted(name, given, package, [], arguments), package


def _submitted(
    name: str,
    given: Mapping[str, Any],
    package: Package,
    arguments: list[str],
    resume_arguments: list[str] | None = None,
) -> Submitted:
    from tuning.clusters.jobs import Submitted
    from tuning.user_code.versions import installed_versions

    return Submitted(
        name=name,
        arguments=arguments,
        resume_arguments=resume_arguments,
        sweeps_folder=given.get("sweeps_folder"),
        sends_data=package.has_data,
        versions=installed_versions(),
    )


def _package(send: Sequence[Path]) -> Package:
    """The files that are sent, at first those of ``--send``."""
    from tuning.clusters.package import Package

    package = Package(Path.cwd())
    for path in send:
        package.add_data(data_path(str(path), "--send"), f"--send {path}")
    return package


def _send(
    submitted: Submitted,
    package: Package,
    cluster_file: Path | None,
    address: str | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """Compare versions, then send."""
    from tuning.clusters.submission import check_versions
    from tuning.clusters.submission import submit as send_job
    from tuning.clusters.tunnel import reach

    with reach(cluster_file, address) as cluster:
        if (note := check_versions(cluster.dashboard)) is not None:
            print(note, file=sys.stderr)
        job = send_job(cluster.dashboard, submitted, package)
        if follow:
            _follow(cluster, submitted.name, as_json)
            return
    document = {
        "sweep": submitted.name,
        "job": job,
        "cluster": cluster.option,
        "sent_files": sorted(package.files),
        "sent_bytes": package.n_bytes,
    }
    show(document, as_json, _show_submitted)


def _show_submitted(document: Mapping[str, Any]) -> None:
    name, n_files = document["sweep"], len(document["sent_files"])
    sent = f", with {n_files} files of {show_bytes(document['sent_bytes'])}" if n_files else ""
    print(f"submitted sweep {name}{sent}")
    commands = (f"status {name}", f"logs {name} --follow", f"stop {name}", f"fetch {name}")
    show_commands(document["cluster"], *commands)


def show_commands(option: str, *commands: str) -> None:
    from tuning.command_line.printing import print_next

    print_next(*(f"{command} {option}" for command in commands))


def _follow(cluster: Reached, name: str, as_json: bool) -> None:
    """Show a sweep until it has ended, and exit as it did."""
    from tuning.clusters.follow import follow_sweep
    from tuning.clusters.sent_sweeps import describe_sweep
    from tuning.clusters.submission import exit_code_for
    from tuning.command_line.live_view import make_view
    from tuning.command_line.printing import thaw_command
    from tuning.command_line.tables import sweep_status

    print(f"submitted sweep {name}; Ctrl-C leaves it running", file=sys.stderr)
    try:
        follow_sweep(cluster.dashboard, name, make_view())
    except KeyboardInterrupt:
        print(
            f"\nsweep {name} goes on; come back with\n"
            f"  {thaw_command()} logs {name} --follow {cluster.option}",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    document = describe_sweep(cluster.dashboard, name)
    show(document, as_json, sweep_status)
    if not as_json:
        show_commands(cluster.option, f"fetch {name}")
    if code := exit_code_for(document["state"]):
        sys.exit(code)
