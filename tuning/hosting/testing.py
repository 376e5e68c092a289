"""Measures a checkpoint on the test split: the only place that ever reads it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace

from trainables.task import EpochReport, TrainingRun
from tuning.storage.stores import CheckpointStore

TEST_FILE = "test.json"  # beside the checkpoint: its metrics, and what a task shows of them


def evaluate_checkpoint(
    store: CheckpointStore, checkpoint: str, run: TrainingRun
) -> Iterator[EpochReport]:
    """Yield one report with the test metrics; what else belongs to them is written to the store.

    Args:
        checkpoint: its key in ``store``.

    Raises:
        OSError: the checkpoint is gone, or the store does not answer.
    """
    metrics: dict[str, float] = {}
    if run.rank == 0:  # it needs no help; the other workers wait
        from trainables.tasks.predictor import Predictor

        folder = store.get(checkpoint)
        if folder is None:
            raise OSError(f"checkpoint {store.name(checkpoint)!r} is gone")
        predictor = Predictor(folder, run.device)
        evaluation = predictor.evaluate("test", replace(run, world_size=1))
        metrics = evaluation.metrics
        result = {
            "metrics": metrics,
            "artifacts": {
                name: base64.b64encode(content).decode()
                for name, content in predictor.artifacts(evaluation).items()
            },
        }
        written = f"{checkpoint.rpartition('/')[0]}/{TEST_FILE}"
        store.write(written, json.dumps(result).encode())
        store.release(checkpoint)
    yield EpochReport(1, metrics, lambda folder: None)  # nothing is learned from the test split
