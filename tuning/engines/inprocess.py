"""A sweep with no Ray: one trial after the other in this process, for debugging and most tests."""

from __future__ import annotations

from tuning.control.controller import Controller
from tuning.hosting.assignment import Outcome
from tuning.hosting.trial_host import TrialHost


def run(controller: Controller) -> None:
    """Run the controller's trials until it has none left."""
    while (assignment := controller.propose()) is not None:
        host = TrialHost(assignment)
        try:
            while True:
                result = host.step()
                if isinstance(result, Outcome):
                    controller.ended(assignment.trial, result)
                    break
                if controller.observe(assignment.trial, result):
                    break
        finally:
            host.close()
