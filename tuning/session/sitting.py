"""How a sitting begins, compared with the end of the last one, and what is said if it is killed."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainables.errors import InputError
from tuning.before_start.space_checks import prepare_data
from tuning.control.view import View
from tuning.record.events import SweepHistory
from tuning.record.sweep import Sweep
from tuning.storage.code_archive import saved_train_file
from tuning.storage.disk import check_free_space
from tuning.storage.open_store import store_of
from tuning.user_code.fingerprints import describe_differences, differences, take_fingerprints

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


def use_users_file(sweep: Sweep) -> Sweep:
    """The sweep with the user's own training file where that still is, else with its copy of it.

    A file may look for others beside itself, and so may the copy; that it has not changed is seen
    by its fingerprint.
    """
    source = sweep.train_source
    if source is not None and source.is_file():
        return replace(sweep, train_file=source)
    return use_saved_code(sweep)


def use_saved_code(sweep: Sweep) -> Sweep:
    """The sweep with its own copy of the user's training file and the modules beside that."""
    if sweep.train_file is None:
        return sweep
    saved = saved_train_file(sweep.folder, sweep.train_file.name, sweep.cache_folder)
    return replace(sweep, train_file=saved)


def begin_sitting(
    sweep: Sweep, history: SweepHistory, say: Callable[[str], None], accept_changes: bool
) -> dict[str, Any]:
    """Compare with the last sitting; returns what the ``sitting_started`` event holds.

    Raises:
        InputError: code or data have changed, and that is not accepted.
    """
    now = take_fingerprints(sweep)
    changed: list[str] = []
    notes: list[str] = []
    if history.fingerprints:
        changed, notes = differences(history.fingerprints, now, sweep.moved)
    if changed and not accept_changes:
        raise InputError(
            f"sweep {sweep.name}: what its trials measure has changed since it last ran:\n"
            f"{describe_differences(changed)}\n"
            "put it back, or continue with --accept-changes, and let the trials so far stand "
            "beside those to come"
        )
    if changed or notes:
        say("changed since this sweep last ran:\n" + describe_differences(changed + notes))
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "space": sweep.space.to_json(),
        "fingerprints": now,
        "moved": dict(sweep.moved),
        "accepted": changed,
    }


def check_disk(sweep: Sweep, say: Callable[[str], None]) -> None:
    """Raise InputError where the sweep's disk can not take even one more checkpoint."""
    sizes = store_of(sweep).sizes().values() if sweep.home is None else ()
    budget = sweep.checkpoint_budget_bytes
    left = None if budget is None else budget - sum(sizes)
    check_free_space(sweep.folder, max(sizes, default=0), left, say)


@contextmanager
def farewell(message: str) -> Iterator[None]:
    """Have ``message`` printed on stderr if this process ends within the block without a word.

    Nothing in a process outlives ``kill -9``, and Ray ends its driver likewise, at once and
    silently, when its node manager dies. A shell at the other end of a pipe notices.
    """
    watcher = None
    with suppress(OSError):  # no shell, no last word
        watcher = subprocess.Popen(
            ["sh", "-c", 'read word || echo "$0" >&2', message],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us
        )
    try:
        yield
    finally:
        if watcher is not None:
            with suppress(OSError):
                watcher.communicate(b"done\n", timeout=5)
