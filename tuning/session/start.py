"""Run a resolved sweep from its data to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuning.before_start.space_checks import prepare_data
from tuning.control.view import View
from tuning.record.sweep import Sweep

if TYPE_CHECKING:
    from tuning.session.runner import SweepResult


def start(
    resolved: Sweep, view: View, *, accept_changes: bool = False
) -> tuple[Sweep, SweepResult]:
    """Prepare the data and run the sweep, or what is left of it.

    Returns:
        The sweep with its data's fingerprints, and what came of it.

    Raises:
        InputError: as ``prepare_data`` and ``run_sweep`` do.
    """
    prepared, notes = prepare_data(resolved)
    for note in notes:
        view.say(note)
    from tuning.session.runner import run_sweep  # imports optuna: not before the data is known

    return prepared, run_sweep(prepared, view, accept_changes=accept_changes)
