"""Warm Ray actors that host one trial after another. They run in processes of their own.

Either in the actor, or in the several workers of a gang: then the actor only relays.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import tune

from tuning.hosting.assignment import Assignment, EpochResult, Outcome
from tuning.hosting.trial_host import TrialHost

BEGAN, LOST = "began", "lost"
RESULT = "result"  # an EpochResult or an Outcome, which Tune passes on as it is


class _Slot(tune.Trainable):
    """Goes to no folder of Tune's: relative paths mean what they mean to the user."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        super().__init__(*args, **kwargs)


class TrialActor(_Slot):
    """One slot of a sweep: keeps its process, and what is imported in it, from trial to trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self._host = TrialHost(Assignment(**config), owns_process=True)
        self._is_clean = True  # no trial has left anything in this process

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._is_clean = self._is_clean and self._host.close() is None
        self._host = TrialHost(Assignment(**new_config), owns_process=True)
        return True

    def step(self) -> dict[str, Any]:
        if not self._is_clean:
            # Only a new process is: Ray starts one, and this trial in it. Not in `reset_config`,
            # where Ray would take the death of the process for the end of the trial.
            os._exit(1)
        result = self._host.step()
        if isinstance(result, Outcome):
            self._is_clean = self._host.close() is None
        return _as_tune_has_it(result)

    def cleanup(self) -> None:
        self._host.close()


class GangRelay(_Slot):
    """One slot of a sweep whose trials have several workers each; it takes no CPU itself."""

    def setup(self, config: dict[str, Any], exchange: str = "") -> None:
        """Begin.

        Args:
            exchange: the name of the actor that knows the gangs.
        """
        self._exchange = ray.get_actor(exchange)
        self._config, self._has_begun = config, False

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train for an epoch; the first time, wait for a gang and begin."""
        trial = self._config["trial"]
        if not self._has_begun:
            failed = ray.get(self._exchange.begin.remote(trial, dict(self._config)))
            self._has_begun = failed is None
            return {BEGAN: True} if failed is None else _as_tune_has_it(failed)
        result = ray.get(self._exchange.step.remote(trial))
        if result is None:
            self._has_begun = False
            return {"done": True, LOST: True}
        if isinstance(result, Outcome):
            self.cleanup()
        return _as_tune_has_it(result)

    def cleanup(self) -> None:
        """Let the gang go to the next trial."""
        if self._has_begun:
            ray.get(self._exchange.end.remote(self._config["trial"]))
        self._has_begun = False


def _as_tune_has_it(result: EpochResult | Outcome) -> dict[str, Any]:
    return {RESULT: result, "done": isinstance(result, Outcome)}
