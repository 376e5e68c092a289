"""MLflow as this process uses it: quiet, and soon to say that it is away; and its runs' tags."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainables.errors import InputError
from tuning.record.sweep import Sweep

_LIBRARIES = ("torch", "torchvision", "transformers", "ray", "optuna", "mlflow")
TRIAL_TAG, SWEEP_TAG, STATE_TAG = "thaw.trial", "thaw.sweep", "thaw.state"
ENDED_TAG = "thaw.ended_because"  # of the parent run
CONFIRMS_TAG = "thaw.confirms"  # of a confirmation run: the trial
CONFIRMED_TAG = "thaw.confirmed"  # of a trial: its mean over fresh seeds

# Of a request: what does not answer is tried again here, and MLflow's own seven take two minutes
# in which nobody would be told.
_HTTP_RETRIES_VARIABLE, _HTTP_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"


@contextmanager
def giving_up_soon() -> Iterator[None]:
    """In the block this process's MLflow says within seconds that a server does not answer."""
    is_set = _HTTP_RETRIES_VARIABLE in os.environ
    os.environ.setdefault(_HTTP_RETRIES_VARIABLE, _HTTP_RETRIES)
    try:
        yield
    finally:
        if not is_set:
            os.environ.pop(_HTTP_RETRIES_VARIABLE, None)


def check_mlflow(sweep: Sweep) -> None:
    """See that the sweep's MLflow answers.

    Raises:
        InputError: it does not.
    """
    try:
        with giving_up_soon():
            client = quiet_mlflow().MlflowClient(tracking_uri=sweep.tracking_uri)
            client.get_experiment_by_name(sweep.experiment)
    except Exception as error:
        raise InputError(
            f"MLflow at {sweep.tracking_uri} does not answer ({reason_of(error)}); what is trained "
            "now is to be registered there"
        ) from error


def quiet_mlflow() -> Any:
    """The mlflow module, without its notices of migrations, its progress bars and its telemetry."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def reason_of(error: Exception) -> str:
    """The first line of an error, or of the one that it ends with as its cause."""
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    cause = re.search(r"\(Caused by (.+?)\)+$", first_line)
    return cause[1] if cause else first_line


def sweep_id(sweep: Sweep) -> str:
    """What tells this sweep from another of the same name in the same MLflow."""
    return f"{sweep.name}@{sweep.began_in or sweep.place}"


def sweep_tags(sweep: Sweep) -> dict[str, str]:
    """Tags of every run of a sweep: which one, from which code, with which libraries."""
    versions = {}
    for library in _LIBRARIES:
        versions[f"version.{library}"] = importlib.metadata.version(library)
    return {SWEEP_TAG: sweep_id(sweep), "git_commit": git_commit(), **versions}


def git_commit() -> str:
    """The commit of the working folder, + where files differ; empty outside a repository."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            cwd=Path.cwd(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
