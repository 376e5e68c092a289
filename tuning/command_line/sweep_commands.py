"""The commands that run sweeps: sweep and resume."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuning.command_line.parameters import (
    FAILED,
    INTERRUPTED,
    AcceptChanges,
    AsJson,
    DryRun,
    Space,
    SweepName,
    SweepsFolder,
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
    if result.summary["best"] is None or result.too_many_failures:
        sys.exit(FAILED)


def show_dry_run(resolved: Sweep, notes: Sequence[str], as_json: bool) -> None:
    """Show a resolved sweep, its data, and five configurations as it might try them."""
    from tuning.command_line.space_tables import dry_run_tables
    from tuning.record.sweep import describe

    generator = random.Random(resolved.seed)
    samples = [resolved.configuration(resolved.space.sample(generator)) for _ in range(5)]
    document = {"sweep": describe(resolved), "data": list(notes), "samples": samples}
    show(document, as_json, lambda _: dry_run_tables(resolved, notes, samples))
