"""MLflow as this process uses it: quiet, and soon to say that it is away."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainables.errors import InputError
from tuning.record.sweep import Sweep

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
