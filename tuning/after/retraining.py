"""Retrain a sweep wherever it is kept."""

from __future__ import annotations

from typing import Any

from tuning.after.retrain import retrain
from tuning.control.view import View
from tuning.record.events import Record
from tuning.record.sweep import Sweep
from tuning.storage.working_copy import at_home


def retrain_sweep(sweep: Sweep, *, view: View, **choices: Any) -> dict[str, Any]:
    """As ``retrain``, with the sweep's home kept up to date; returns its document."""
    with at_home(sweep, view.say) as start_uploads:
        start_uploads()
        record = Record(sweep.folder)
        document = retrain(sweep, record, view=view, **choices)
        record.close()
    return document
