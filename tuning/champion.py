"""The champion in MLflow: its run, its model, and how it compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainables.errors import RunFailed
from tuning.record import Record, TrialRecord
from tuning.search.lineage import config_of_best, describe_schedule, schedule_of_best
from tuning.seeds import SeedResult
from tuning.storage.sharing import store_of
from tuning.sweep import Sweep
from tuning.tracking import SWEEP_TAG, TRIAL_TAG, quiet_mlflow, sweep_tags

CHAMPION = "champion"
VERDICT_TAG = "thaw.verdict"  # does the gain exceed seed noise
SCHEDULE_TAG = "thaw.schedule"  # as the trials' runs have it
TEST_READS_TAG = "thaw.test_reads_before"  # how often the test split was read before


def log_champion(
    sweep: Sweep,
    record: Record,
    trial: TrialRecord,
    champion: SeedResult,
    document: Mapping[str, Any],
) -> tuple[str | None, str]:
    """Write the champion's run; register its model as the sweep's name @ ``champion``.

    Args:
        document: what ``retrain`` returns, for how it compares with the default configuration.

    Returns:
        The address of the registered model, None for a user's own training; the run's id.
    """
    mlflow = quiet_mlflow()
    mlflow.set_tracking_uri(sweep.tracking_uri)
    mlflow.set_experiment(sweep.experiment)
    tags = {
        **sweep_tags(sweep),
        TRIAL_TAG: f"retrain of {trial.number}",
        VERDICT_TAG: document["verdict"],
        TEST_READS_TAG: str(document["test_reads_before"]),
    }
    if document["schedule"]:
        tags[SCHEDULE_TAG] = describe_schedule(schedule_of_best(sweep, trial))
    if record.history.parent_run_id:
        tags["mlflow.parentRunId"] = record.history.parent_run_id
    with mlflow.start_run(run_name=f"{sweep.name}-{CHAMPION}", tags=tags) as run:
        config = config_of_best(sweep, trial)
        mlflow.log_params({**config, "seed": champion.seed, SWEEP_TAG: sweep.name})
        for epoch, metrics in champion.curve.items():
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            mlflow.log_metrics(finite, step=epoch)
        mlflow.log_metrics(_compared(sweep, document))
        if document["gains"]:
            kept = {name: document[name] for name in ("verdict", "gains", "seeds", "default")}
            mlflow.log_dict(kept, "comparison.json")
        if champion.test is not None:
            mlflow.log_metrics({f"test_{name}": value for name, value in champion.test.items()})
            mlflow.log_dict(
                {"classes": list(champion.classes), "counts": champion.confusion},
                "confusion_matrix.json",
            )
            mlflow.log_figure(_picture(champion), "confusion_matrix.png")
    if sweep.space.task is None:
        return None, run.info.run_id
    from tuning.serving import log_model

    checkpoint = store_of(sweep).get(champion.key)
    if checkpoint is None:
        raise RunFailed(f"the champion's checkpoint {champion.checkpoint!r} is gone")
    info = log_model(checkpoint, run.info.run_id, sweep.tracking_uri, sweep.name)
    mlflow.MlflowClient().set_registered_model_alias(
        sweep.name, CHAMPION, info.registered_model_version
    )
    return f"models:/{sweep.name}@{CHAMPION}", run.info.run_id


def _compared(sweep: Sweep, document: Mapping[str, Any]) -> dict[str, float]:
    """Each seed's values, of the default configuration too, and the gain over that."""
    metrics: dict[str, float] = {}
    default = document["default"]["seeds"] if document["default"] else []
    for prefix, rows in (("", document["seeds"]), ("default_", default)):
        for row in rows:
            values = {sweep.metric: row[sweep.metric]}
            values |= {f"test_{name}": value for name, value in (row["test"] or {}).items()}
            seed = f"{prefix}seed_{row['seed']}"
            metrics |= {f"{seed}.{name}": value for name, value in values.items()}
    for gain in document["gains"]:
        metrics[f"gain.{gain['metric']}"] = gain["mean"]
        metrics[f"gain_standard_error.{gain['metric']}"] = gain["standard_error"]
    return metrics


def _picture(champion: SeedResult) -> Any:
    """The confusion matrix as a figure: rows are true classes, columns predicted ones."""
    from matplotlib.figure import Figure

    n_classes = len(champion.classes)
    side = min(4 + 0.3 * n_classes, 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(sum(row), 1) for count in row] for row in champion.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n_classes), champion.classes, rotation=90)
    axes.set_yticks(range(n_classes), champion.classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"test split, {sum(map(sum, champion.confusion))} samples")
    if n_classes <= 30:
        for true, row in enumerate(champion.confusion):
            for predicted, count in enumerate(row):
                if count:
                    colour = "white" if shares[true][predicted] > 0.5 else "black"
                    axes.text(predicted, true, str(count), ha="center", va="center", color=colour)
    return figure
