"""The champion in MLflow: its run, its model, and how it compares."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.errors import RunFailed
from tuning.after.comparison import artifacts_of
from tuning.control.retraining import Training
from tuning.record.events import SweepHistory
from tuning.record.sweep import Sweep
from tuning.storage.open_store import store_of
from tuning.tracking.mlflow_client import (
    SWEEP_TAG,
    TRIAL_TAG,
    giving_up_soon,
    quiet_mlflow,
    reason_of,
    sweep_tags,
)

CHAMPION = "champion"
VERDICT_TAG = "thaw.verdict"  # does the gain exceed seed noise
CHECKPOINT_TAG = "thaw.checkpoint"  # the champion's, in the sweep's store
TEST_READS_TAG = "thaw.test_reads_before"  # how often the test split was read before
_MAY_PASS = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_SECONDS_OF_PATIENCE, _SECONDS_BETWEEN_TRIES = 300.0, 10.0


def log_champion(
    sweep: Sweep,
    history: SweepHistory,
    champion: Training,
    document: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, str | None]:
    """Write the champion's run; register its model as the sweep's name @ ``champion``.

    A server that is away is given some minutes: what it is to take took longer to train.

    Args:
        document: what ``retrain`` returns, for how it compares with the default configuration.
        say: told why it has to wait.

    Returns what the document says of it: ``model_uri`` (None for a user's own training),
    ``mlflow_run_id``, and ``failure``, the reason if MLflow has neither.

    Raises:
        RunFailed: the champion's checkpoint is gone.
    """
    give_up = time.monotonic() + _SECONDS_OF_PATIENCE
    where = f"MLflow at {sweep.tracking_uri}"
    while True:
        try:
            with giving_up_soon():
                return _log(sweep, history, champion, document)
        except RunFailed:
            raise
        except Exception as error:
            failure = f"{where} does not take the champion ({reason_of(error)})"
            if not _may_pass(error) or time.monotonic() > give_up:
                return _logged(failure=failure)
        say(f"{failure}; trying again, until Ctrl-C or for {_SECONDS_OF_PATIENCE / 60:.0f} minutes")
        try:
            time.sleep(_SECONDS_BETWEEN_TRIES)
        except KeyboardInterrupt:
            return _logged(failure=failure)


def check_logged(document: Mapping[str, Any]) -> None:
    """Raise RunFailed where MLflow lacks the champion, with the place where it is."""
    if document["failure"]:
        raise RunFailed(f"{document['failure']}; it is in {document['checkpoint']}")


def _logged(
    model_uri: str | None = None, run_id: str | None = None, failure: str | None = None
) -> dict[str, str | None]:
    return {"model_uri": model_uri, "mlflow_run_id": run_id, "failure": failure}


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: a server is away or busy."""
    code = getattr(error, "error_code", None)  # of mlflow's own
    return code in _MAY_PASS or (code is None and isinstance(error, OSError))


def _log(
    sweep: Sweep, history: SweepHistory, champion: Training, document: Mapping[str, Any]
) -> dict[str, str | None]:
    mlflow = quiet_mlflow()
    mlflow.set_tracking_uri(sweep.tracking_uri)
    experiment = mlflow.set_experiment(sweep.experiment)
    tags = _tags(sweep, history, champion, document)
    begun = " and ".join(f"tags.{name} = '{tags[name]}'" for name in (CHECKPOINT_TAG, SWEEP_TAG))
    for run in mlflow.search_runs([experiment.experiment_id], begun, output_format="list"):
        mlflow.delete_run(run.info.run_id)  # of an attempt that failed half-way
    with mlflow.start_run(run_name=f"{sweep.name}-{CHAMPION}", tags=tags) as run:
        mlflow.log_params({**champion.run.config, SWEEP_TAG: sweep.name})
        for epoch, metrics in champion.run.curve.items():
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            mlflow.log_metrics(finite, step=epoch)
        mlflow.log_metrics(_compared(sweep, document))
        if document["gains"]:
            kept = {name: document[name] for name in ("verdict", "gains", "seeds", "default")}
            mlflow.log_dict(kept, "comparison.json")
        if document["test"] is not None:
            mlflow.log_metrics(_prefixed(document["test"]))
            _log_files(mlflow, artifacts_of(sweep, champion))
    if sweep.space.task is None:
        return _logged(run_id=run.info.run_id)
    from tuning.tracking.logged_models import log_model

    checkpoint = store_of(sweep).get(champion.checkpoint)
    if checkpoint is None:
        raise RunFailed(f"the champion's checkpoint {document['checkpoint']!r} is gone")
    info = log_model(checkpoint, run.info.run_id, sweep.tracking_uri, sweep.name)
    mlflow.MlflowClient().set_registered_model_alias(
        sweep.name, CHAMPION, info.registered_model_version
    )
    return _logged(f"models:/{sweep.name}@{CHAMPION}", run.info.run_id)


def _tags(
    sweep: Sweep, history: SweepHistory, champion: Training, document: Mapping[str, Any]
) -> dict[str, str]:
    tags = {
        **sweep_tags(sweep),
        TRIAL_TAG: f"retrain of {document['trial']}",
        CHECKPOINT_TAG: champion.checkpoint,
        VERDICT_TAG: document["verdict"],
        TEST_READS_TAG: str(document["test_reads_before"]),
    }
    if history.parent_run_id:
        tags["mlflow.parentRunId"] = history.parent_run_id
    return tags


def _compared(sweep: Sweep, document: Mapping[str, Any]) -> dict[str, float]:
    """Each seed's values, of the default configuration too, and the gain over that."""
    metrics: dict[str, float] = {}
    default = document["default"]["seeds"] if document["default"] else []
    for prefix, rows in (("", document["seeds"]), ("default_", default)):
        for row in rows:
            values = {sweep.metric: row[sweep.metric], **_prefixed(row["test"] or {})}
            seed = f"{prefix}seed_{row['seed']}"
            metrics |= {f"{seed}.{name}": value for name, value in values.items()}
    for gain in document["gains"]:
        metrics[f"gain.{gain['metric']}"] = gain["mean"]
        metrics[f"gain_standard_error.{gain['metric']}"] = gain["standard_error"]
    return metrics


def _prefixed(test: Mapping[str, float]) -> dict[str, float]:
    return {f"test_{name}": value for name, value in test.items()}


def _log_files(mlflow: Any, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        mlflow.log_artifacts(folder)
