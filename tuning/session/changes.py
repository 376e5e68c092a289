"""The beginning of a sitting: is everything as it was at the end of the last one?"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trainables.errors import InputError
from tuning.record.events import SweepHistory
from tuning.record.sweep import Sweep
from tuning.storage.code_archive import saved_train_file
from tuning.storage.disk import check_free_space
from tuning.storage.open_store import store_of
from tuning.user_code.fingerprints import describe_differences, differences, take_fingerprints


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
