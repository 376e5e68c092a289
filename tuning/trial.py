"""A warm Ray actor that hosts one trial after another. Runs in the worker process."""

from __future__ import annotations

from typing import Any

from ray import tune

from tuning.hosting import Assignment, Outcome, TrialHost

OUTCOME, ERROR, OUT_OF_MEMORY = "outcome", "error", "out_of_memory"
EPOCH, METRICS, NOTE = "epoch", "metrics", "note"


class TrialActor(tune.Trainable):
    """One slot of a sweep: keeps its process, and what is imported in it, from trial to trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self._host = TrialHost(Assignment(**config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._host.close()
        self._host = TrialHost(Assignment(**new_config))
        return True

    def step(self) -> dict[str, Any]:
        result = self._host.step()
        if isinstance(result, Outcome):
            self._host.close()
            return {
                "done": True,
                OUTCOME: result.state,
                ERROR: result.error,
                OUT_OF_MEMORY: result.out_of_memory,
            }
        return {EPOCH: result.epoch, METRICS: dict(result.metrics), NOTE: result.note}

    def cleanup(self) -> None:
        self._host.close()
